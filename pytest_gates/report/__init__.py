"""What people and machines read of a session: terminal lines, and the basis in a contract."""

"""What others would run instead, uncrippled; each a process of its own."""

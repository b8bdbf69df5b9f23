"""Starting, watching and ending runs, and which of them are the same."""

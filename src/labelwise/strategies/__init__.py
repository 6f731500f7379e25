"""Floor 3: one idea a file."""

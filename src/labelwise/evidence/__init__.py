"""Floor 2: what a strategy may ask for, computed only when asked."""

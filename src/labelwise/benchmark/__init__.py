"""Floor 6: the researcher's loop."""

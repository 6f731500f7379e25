"""Floor 4: encoders, heads and the one training loop."""

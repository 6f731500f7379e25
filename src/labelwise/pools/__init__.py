"""Floor 1: where items come from, with stable ids."""

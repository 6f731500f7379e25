"""Floor 5: query, annotate, fit, evaluate."""

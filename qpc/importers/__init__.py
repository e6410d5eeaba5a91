"""What other tools have decided about a model, taken over."""

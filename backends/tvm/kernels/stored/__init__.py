"""Matrix products of floats with integer weights."""

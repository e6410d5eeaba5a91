"""Pruning: what to remove, by which criterion, how much of it, and when."""

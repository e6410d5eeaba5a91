"""Analyses: pure functions of a core-form graph."""

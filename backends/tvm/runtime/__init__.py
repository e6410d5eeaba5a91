"""Compiled models: loaded, run, saved."""

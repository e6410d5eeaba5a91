"""Convolutions and matrix products: how they are cut, laid out and computed."""

"""Quantization mathematics: grids, observers, fixed-point constants. No graph code here."""

"""Kernels of operators whose values stay float32."""

"""Where the time of a compiled model goes, and which kernels are fastest."""

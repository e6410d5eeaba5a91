"""From TIR to the bytes of a shared library."""

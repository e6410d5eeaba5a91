"""Integer kernels as TIR functions: one builder per operation, every dimension static.

Activations are uint8 and physically NHWC. A builder takes an `Isa` (see `isa.py`), a description of
the operation and its constants, and returns a `Kernel`: a PrimFunc together with the arrays to pass
to it.
"""

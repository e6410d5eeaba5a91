"""Compiled models without PyTorch and TVM: numpy, ctypes, and what the operating system has.

    from qpc import runtime

    model = runtime.load("resnet18")      # the folder that `compiled.save` wrote
    scores = model(image)                 # numpy arrays in, numpy arrays out

This package is the lower half of `qpc.load`, too, which adds PyTorch's tensors, reports and
profiles to it. `pip install qpc-runtime` installs it alone.
"""

from qpc.runtime.abi import ABI
from qpc.runtime.arrays import ArrayType
from qpc.runtime.model import Model, load

__all__ = ["ABI", "ArrayType", "Model", "load"]

"""Compiled models without PyTorch and TVM: numpy, ctypes, and what the operating system has.

    from qpc import runtime

    model = runtime.load("resnet18")      # the folder that `compiled.save` wrote
    scores = model(image)                 # numpy arrays in, numpy arrays out

This package is the lower half of `qpc.load`, too, which adds PyTorch's tensors, reports and
profiles to it. `pip install qpc-runtime` installs it alone.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from qpc.runtime.abi import ABI

if TYPE_CHECKING:
    from qpc.runtime.arrays import ArrayType as ArrayType
    from qpc.runtime.model import Model as Model
    from qpc.runtime.model import load as load

# Loaded when first used: compilers import modules beside them, and need no numpy for that.
_HOMES = {
    "ArrayType": "qpc.runtime.arrays",
    "Model": "qpc.runtime.model",
    "load": "qpc.runtime.model",
}

__all__ = ["ABI", "ArrayType", "Model", "load"]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)

"""What the CPU can do at most: a loop of dot products that touches no memory."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import tvm

from qpc.backends.tvm.build import tvm_target
from qpc.backends.tvm.kernels.emit import Flat, bind, local, loop, prim_func
from qpc.backends.tvm.kernels.isa import isa_for
from qpc.backends.tvm.kernels.kernel import TensorType
from qpc.target import Target

_SUMS = 16  # independent sums, enough to hide the latency of a dot product
_ROUNDS = 20_000  # under a millisecond on AVX-512


@dataclass(frozen=True)
class Peak:
    """A loop to be timed: one call of `run` does `macs` multiply-accumulates on one thread."""

    run: Callable[[], object]
    macs: int


@functools.cache
def peak(target: Target) -> Peak:
    """The loop for the dot product that the kernels for `target` use."""
    isa = isa_for(target)
    block = isa.lanes * isa.depth

    def body(x: Flat, w: Flat, out: Flat) -> None:
        total = local(_SUMS * isa.lanes, "int32")
        places = [i * isa.lanes for i in range(_SUMS)]
        for at in places:
            total.store(at, out.load(at, isa.lanes), isa.lanes)
        x_value, w_value = bind(x.load(0, block)), bind(w.load(0, block))
        with loop(_ROUNDS):
            for at in places:
                before = total.load(at, isa.lanes)
                total.store(at, isa.dot(before, x_value, w_value), isa.lanes)
        for at in places:
            out.store(at, total.load(at, isa.lanes), isa.lanes)

    types = (
        TensorType((block,), "uint8"),
        TensorType((block,), "int8"),
        TensorType((_SUMS * isa.lanes,), "int32"),
    )
    module = tvm.IRModule({"peak": prim_func("peak", types, body)})
    function = tvm.compile(module, target=tvm_target(target))["peak"]
    tensors = [tvm.runtime.tensor(np.ones(t.shape, t.dtype)) for t in types]
    return Peak(lambda: function(*tensors), _ROUNDS * _SUMS * block)

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

_POSITIONS, _VECTORS = 64, 3  # groups of pixels that fit the cache, weights in registers
_ROUNDS = 2000  # about half a millisecond where a dot product has 64 products


@dataclass(frozen=True)
class Peak:
    """A loop to be timed: one call of `run` does `macs` multiply-accumulates on one thread."""

    run: Callable[[], object]
    macs: int


@functools.cache
def peak(target: Target) -> Peak:
    """The loop for the dot product that the kernels for `target` use.

    As many independent sums as hide its latency, on activations in the first-level cache. Every
    round reads other activations: the same product in every round would be computed once.
    """
    isa = isa_for(target)
    pixels = min(8, (isa.registers - 1) // _VECTORS - 1)
    block, sums = isa.lanes * isa.depth, pixels * _VECTORS
    places = [i * isa.lanes for i in range(sums)]

    def body(x: Flat, w: Flat, out: Flat) -> None:
        total = local(sums * isa.lanes, "int32")
        for at in places:
            total.store(at, out.load(at, isa.lanes), isa.lanes)
        weights = [bind(w.load(i * block, block)) for i in range(_VECTORS)]
        with loop(_ROUNDS), loop(_POSITIONS) as position:
            start = bind(position * (pixels * isa.depth))
            for pixel in range(pixels):
                value = bind(isa.broadcast(x.load(start + pixel * isa.depth, isa.depth)))
                for vector, weight in enumerate(weights):
                    at = places[pixel * _VECTORS + vector]
                    product = isa.dot(total.load(at, isa.lanes), value, weight)
                    total.store(at, product, isa.lanes)
        for at in places:
            out.store(at, total.load(at, isa.lanes), isa.lanes)

    types = (
        TensorType((_POSITIONS * pixels * isa.depth,), isa.x_type),
        TensorType((_VECTORS * block,), isa.w_type),
        TensorType((sums * isa.lanes,), "int32"),
    )
    module = tvm.IRModule({"peak": prim_func("peak", types, body)})
    function = tvm.compile(module, target=tvm_target(target))["peak"]
    tensors = [tvm.runtime.tensor(np.ones(t.shape, t.dtype)) for t in types]
    return Peak(lambda: function(*tensors), _ROUNDS * _POSITIONS * sums * block)

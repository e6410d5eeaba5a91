"""What the CPU can do at most: a loop of dot products that touches no memory."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import tvm

from qpc.backends.tvm.codegen.objects import tvm_target
from qpc.backends.tvm.kernels.emit import Flat, bind, local, loop, prim_func
from qpc.backends.tvm.kernels.isa.choose import Isa, isa_for
from qpc.backends.tvm.kernels.isa.matrices import MatrixTiles, TileShape
from qpc.backends.tvm.kernels.kernel import Array, TensorType
from qpc.targets import Target

_POSITIONS, _VECTORS = 64, 3  # groups of pixels that fit the cache, weights in registers
_ROUNDS = 2000  # about half a millisecond where a dot product has 64 products


@dataclass(frozen=True)
class Peak:
    """A loop to be timed: one call of `run` does `macs` multiply-accumulates on one thread."""

    run: Callable[[], object]
    macs: int


@functools.cache
def peak(target: Target) -> Peak:
    """The loop for the dot product that the kernels for `target` use."""
    isa = isa_for(target)
    return _vector_peak(target, isa) if isa.tiles is None else _matrix_peak(target, isa, isa.tiles)


def _matrix_peak(target: Target, isa: Isa, tiles: MatrixTiles) -> Peak:
    """Full registers, as many sums as a micro-kernel has."""
    sizes = tiles.sizes
    parts, vectors = sizes.blocks[0]
    shape = TileShape(sizes, parts, vectors, sizes.pixels, sizes.run, isa.lanes // sizes.lanes)
    x_registers, w_registers = shape.x_registers, shape.weight_registers
    dots = [
        (x_registers[part % len(x_registers)], w_registers[column % len(w_registers)])
        for part, column in product(range(shape.parts), range(shape.columns))
    ]

    def body(x: Flat, w: Flat, config: Flat, bias: Flat, out: Flat) -> None:
        registers = tiles.open(shape, config, out)
        for sums, (x_register, w_register) in enumerate(dots):
            registers.start(sums, bias, 0)
            registers.load(x_register, x, 0, shape.run)
            registers.load(w_register, w, 0, sizes.row_bytes)
        with loop(_ROUNDS):
            for sums, (x_register, w_register) in enumerate(dots):
                registers.dot(sums, x_register, w_register)
        for sums in range(shape.sums):
            registers.keep(sums)
        registers.close()

    types = (
        TensorType((shape.pixels * shape.run,), isa.activation),
        TensorType((shape.weights_size,), "int8"),
        TensorType((64,), "uint8"),
        TensorType((sizes.lanes,), "int32"),
        TensorType((tiles.memory(shape),), "int32"),
    )
    macs = shape.pixels * shape.run * sizes.lanes
    constants = {2: tiles.config(shape)}
    return _compiled(target, types, body, _ROUNDS * shape.sums * macs, constants)


def _vector_peak(target: Target, isa: Isa) -> Peak:
    """As many independent sums as hide the latency, on activations in the first-level cache.

    Every round reads other activations: the same product in every round would be computed once.
    """
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
    return _compiled(target, types, body, _ROUNDS * _POSITIONS * sums * block, {})


def _compiled(
    target: Target,
    types: Sequence[TensorType],
    body: Callable[..., None],
    macs: int,
    constants: Mapping[int, Array],
) -> Peak:
    """The loop, ready to run; arguments are ones, but for those in `constants`."""
    module = tvm.IRModule({"peak": prim_func("peak", types, body)})
    function = tvm.compile(module, target=tvm_target(target))["peak"]
    arrays = [constants.get(i, np.ones(t.shape, t.dtype)) for i, t in enumerate(types)]
    tensors = [tvm.runtime.tensor(array) for array in arrays]
    return Peak(lambda: function(*tensors), macs)

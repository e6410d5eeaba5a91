"""Resizing of images, in integers."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.fx import Node

from qpc.calls import arguments, qpc_ops
from qpc.exporting.onnx.exporter import Exporter, Rule
from qpc.exporting.onnx.integers.arithmetic import int32, shifted
from qpc.ops.resize import POSITIONS

_SHIFT = 2 * (POSITIONS.bit_length() - 1)
_MOST = 128 * POSITIONS**2
"""The magnitude of the least sum, of int8 at -128."""


def _resize2d(to: Exporter, node: Node) -> str:
    """`qpc::resize2d`: linear between pixels, rounded once."""
    source = arguments(node)["q"]
    rows, columns = to.tensor(node, "rows"), to.tensor(node, "columns")
    name, dtype = to.of(source), to.type(node).dtype
    if not any((places % POSITIONS).any() for places in (rows, columns)):
        for axis, places in ((2, rows), (3, columns)):
            name = to.emit("Gather", [name, _indices(to, places // POSITIONS)], axis=axis)
        return name
    name = to.cast(name, torch.int32)
    for axis, places in ((2, rows), (3, columns)):
        name = _sampled(to, name, places, axis, to.size(source, axis))
    name = to.emit("Add", [name, int32(to, 1 << (_SHIFT - 1))])
    return to.cast(shifted(to, name, _SHIFT, 0 if dtype is torch.uint8 else _MOST), dtype)


def _sampled(to: Exporter, name: str, places: Tensor, axis: int, size: int) -> str:
    """A weighted sum of the two pixels next to each place, in units of `1 / POSITIONS`."""
    first, weight = places // POSITIONS, places % POSITIONS
    shape = (-1, 1) if axis == 2 else (-1,)
    parts = []
    for index, share in ((first, POSITIONS - weight), ((first + 1).clamp(max=size - 1), weight)):
        taken = to.emit("Gather", [name, _indices(to, index)], axis=axis)
        factor = to.constant(share.to(torch.int32).reshape(shape).numpy())
        parts.append(to.emit("Mul", [taken, factor]))
    return to.emit("Add", parts)


def _indices(to: Exporter, index: Tensor) -> str:
    return to.constant(index.numpy().astype(np.int64))


RULES: dict[object, Rule] = {
    qpc_ops.resize2d.default: _resize2d,
}

"""Resizing of images."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.fx import Node
from torch.nn import functional as F

from qpc.backends.litert.exporter import Exporter, Refused, Rule
from qpc.backends.litert.indexing import gathered
from qpc.backends.litert.tables import Kind, Value, flag
from qpc.calls import arguments, qpc_ops
from qpc.ops.resize import POSITIONS

_BILINEAR, _NEAREST = 15, 74  # numbers of their options


def _resize2d(to: Exporter, node: Node) -> int:
    """`qpc::resize2d`: the interpolation is found by making the places of all that are known.

    What takes whole pixels in another way, such as padding by reflection, becomes a Gather.
    """
    index, sizes = to.value(node, "q"), to.shape(arguments(node)["q"])[2:]
    places = [to.tensor(node, axis) for axis in ("rows", "columns")]
    for way, kind, options in _WAYS:
        if all(
            torch.equal(_places(way, size, len(place)), place)
            for size, place in zip(sizes, places, strict=True)
        ):
            size = to.row(to.shape(node)[2:])
            return to.emit(kind, [index, size], to.result(node), options)
    if any((place % POSITIONS).any() for place in places):
        raise Refused("there is none for this interpolation")
    for axis, place in enumerate(places, 1):
        index = gathered(to, index, (place // POSITIONS).tolist(), axis)
    return index


def _places(way: Callable[[Tensor, tuple[int, int]], Tensor], size: int, found: int) -> Tensor:
    """Where an axis of `size` is sampled, in the units of `qpc::resize2d`."""
    ramp = torch.arange(float(size)).reshape(1, 1, -1, 1)
    return (way(ramp, (found, 1)).flatten() * POSITIONS).round().to(torch.int32)


_Way = tuple[Callable[[Tensor, tuple[int, int]], Tensor], Kind, tuple[int, Mapping[int, Value]]]
_WAYS: tuple[_Way, ...] = (
    (
        lambda x, size: F.interpolate(x, size, mode="nearest"),
        Kind.RESIZE_NEAREST_NEIGHBOR,
        (_NEAREST, {0: flag(False), 1: flag(False)}),
    ),
    (
        lambda x, size: F.interpolate(x, size, mode="bilinear", align_corners=False),
        Kind.RESIZE_BILINEAR,
        (_BILINEAR, {2: flag(False), 3: flag(True)}),
    ),
    (
        lambda x, size: F.interpolate(x, size, mode="bilinear", align_corners=True),
        Kind.RESIZE_BILINEAR,
        (_BILINEAR, {2: flag(True), 3: flag(False)}),
    ),
)


RULES: dict[object, Rule] = {
    qpc_ops.resize2d.default: _resize2d,
}

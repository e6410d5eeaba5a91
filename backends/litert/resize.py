"""Resizing of images."""

from __future__ import annotations

from collections.abc import Mapping

from torch.fx import Node

from qpc.backends.litert.exporter import Exporter, Refused, Rule
from qpc.backends.litert.indexing import gathered
from qpc.backends.litert.tables import Kind, Value, flag
from qpc.calls import arguments, qpc_ops
from qpc.ops.resize import POSITIONS, Interpolation, interpolation

_BILINEAR, _NEAREST = 15, 74  # numbers of their options


def _resize2d(to: Exporter, node: Node) -> int:
    """`qpc::resize2d`; pixels taken by no rule, such as reflected ones, become a Gather."""
    index = to.value(node, "q")
    places = [to.tensor(node, axis) for axis in ("rows", "columns")]
    way = interpolation(to.shape(arguments(node)["q"])[2:], *places)
    if way is None:
        raise Refused("there is none for this interpolation")
    if way == "pixels":
        for axis, place in enumerate(places, 1):
            index = gathered(to, index, (place // POSITIONS).tolist(), axis)
        return index
    kind, options = _KINDS[way]
    return to.emit(kind, [index, to.row(to.shape(node)[2:])], to.result(node), options)


_KINDS: Mapping[Interpolation, tuple[Kind, tuple[int, Mapping[int, Value]]]] = {
    "nearest": (Kind.RESIZE_NEAREST_NEIGHBOR, (_NEAREST, {0: flag(False), 1: flag(False)})),
    "bilinear": (Kind.RESIZE_BILINEAR, (_BILINEAR, {2: flag(False), 3: flag(True)})),
    "bilinear aligned": (Kind.RESIZE_BILINEAR, (_BILINEAR, {2: flag(True), 3: flag(False)})),
}


RULES: dict[object, Rule] = {
    qpc_ops.resize2d.default: _resize2d,
}

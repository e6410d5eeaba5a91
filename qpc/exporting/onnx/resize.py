"""Resizing of images."""

from __future__ import annotations

from collections.abc import Mapping

from torch.fx import Node

from qpc.calls import arguments, qpc_ops
from qpc.errors import UnsupportedOpError
from qpc.exporting.onnx.exporter import Exporter, Rule
from qpc.ops.resize import POSITIONS, Interpolation, interpolation


def _resize2d(to: Exporter, node: Node) -> str:
    """`qpc::resize2d`; pixels taken by no rule, such as reflected ones, become a Gather."""
    name, source = to.value(node, "q"), arguments(node)["q"]
    places = [to.tensor(node, axis) for axis in ("rows", "columns")]
    way = interpolation([to.size(source, axis) for axis in (2, 3)], *places)
    if way is None:
        raise UnsupportedOpError("no ONNX form for this interpolation", node=node)
    if way == "pixels":
        for axis, place in enumerate(places, 2):
            name = to.emit("Gather", [name, to.integers((place // POSITIONS).tolist())], axis=axis)
        return name
    return to.emit("Resize", [name, "", "", to.extents(to.shape(node))], **_ATTRIBUTES[way])


_ATTRIBUTES: Mapping[Interpolation, dict[str, str]] = {
    "nearest": {
        "mode": "nearest",
        "coordinate_transformation_mode": "asymmetric",
        "nearest_mode": "floor",
    },
    "bilinear": {"mode": "linear", "coordinate_transformation_mode": "pytorch_half_pixel"},
    "bilinear aligned": {"mode": "linear", "coordinate_transformation_mode": "align_corners"},
}


RULES: dict[object, Rule] = {
    qpc_ops.resize2d.default: _resize2d,
}

"""Resizing of images."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.fx import Node
from torch.nn import functional as F

from qpc.calls import arguments, qpc_ops
from qpc.errors import UnsupportedOpError
from qpc.exporting.onnx.exporter import Exporter, Rule
from qpc.ops.resize import POSITIONS


def _resize2d(to: Exporter, node: Node) -> str:
    """`qpc::resize2d`: the interpolation is found by making the places of all that are known.

    What takes whole pixels in another way, such as padding by reflection, becomes a Gather.
    """
    name, source = to.value(node, "q"), arguments(node)["q"]
    sizes = [to.size(source, axis) for axis in (2, 3)]
    places = [to.tensor(node, axis) for axis in ("rows", "columns")]
    for way, attributes in _WAYS:
        if all(
            torch.equal(_places(way, size, len(place)), place)
            for size, place in zip(sizes, places, strict=True)
        ):
            return to.emit("Resize", [name, "", "", to.extents(to.shape(node))], **attributes)
    if any((place % POSITIONS).any() for place in places):
        raise UnsupportedOpError("no ONNX form for this interpolation", node=node)
    for axis, place in enumerate(places, 2):
        name = to.emit("Gather", [name, to.integers((place // POSITIONS).tolist())], axis=axis)
    return name


def _places(way: Callable[[Tensor, tuple[int, int]], Tensor], size: int, found: int) -> Tensor:
    """Where an axis of `size` is sampled, in the units of `qpc::resize2d`."""
    ramp = torch.arange(float(size)).reshape(1, 1, -1, 1)
    return (way(ramp, (found, 1)).flatten() * POSITIONS).round().to(torch.int32)


_WAYS: tuple[tuple[Callable[[Tensor, tuple[int, int]], Tensor], dict[str, str]], ...] = (
    (
        lambda x, size: F.interpolate(x, size, mode="nearest"),
        {
            "mode": "nearest",
            "coordinate_transformation_mode": "asymmetric",
            "nearest_mode": "floor",
        },
    ),
    (
        lambda x, size: F.interpolate(x, size, mode="bilinear", align_corners=False),
        {"mode": "linear", "coordinate_transformation_mode": "pytorch_half_pixel"},
    ),
    (
        lambda x, size: F.interpolate(x, size, mode="bilinear", align_corners=True),
        {"mode": "linear", "coordinate_transformation_mode": "align_corners"},
    ),
)


RULES: dict[object, Rule] = {
    qpc_ops.resize2d.default: _resize2d,
}

"""The ONNX form of operators that move values, of integers and of floats."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.fx import Node
from torch.nn import functional as F

from qpc.backends.onnx.exporter import Exporter
from qpc.backends.onnx.layers import zero_padding
from qpc.calls import Pair, arguments
from qpc.errors import UnsupportedOpError
from qpc.ops.concat import Cat
from qpc.ops.convolution import IntConv2d
from qpc.ops.padding import Pad
from qpc.ops.resize import POSITIONS

_LEAST = -(2**63)  # the end of a slice that goes backwards through all of an axis


def cat(to: Exporter, node: Node) -> str:
    """`aten.cat`."""
    view = Cat(node)
    return to.emit("Concat", [to.names[v] for v in view.tensors], axis=view.dim)


def reshape(to: Exporter, node: Node) -> str:
    """`aten.reshape`."""
    return to.emit("Reshape", [to.value(node, "self"), to.integers(to.shape(node))])


def permute(to: Exporter, node: Node) -> str:
    """`aten.permute`."""
    given = arguments(node)
    rank = len(given["dims"])
    return to.emit("Transpose", [to.value(node, "self")], perm=[d % rank for d in given["dims"]])


def slice_(to: Exporter, node: Node) -> str:
    """`aten.slice`."""
    given = arguments(node)
    axis = given["dim"] % len(to.shape(node))
    size = to.shape(given["self"])[axis]
    start = given["start"] or 0
    end = size if given["end"] is None else min(given["end"], size)
    return _sliced(to, to.value(node, "self"), axis, start, end, given["step"])


def _sliced(to: Exporter, name: str, axis: int, start: int, end: int, step: int = 1) -> str:
    return to.emit("Slice", [name, *(to.integers([v]) for v in (start, end, axis, step))])


def select(to: Exporter, node: Node) -> str:
    """`aten.select`."""
    given = arguments(node)
    axis = given["dim"] % len(to.shape(given["self"]))
    index = given["index"] % to.shape(given["self"])[axis]
    return to.emit("Gather", [to.value(node, "self"), to.constant(np.int64(index))], axis=axis)


def flip(to: Exporter, node: Node) -> str:
    """`aten.flip`."""
    name, given = to.value(node, "self"), arguments(node)
    for dim in given["dims"]:
        name = _sliced(to, name, dim % len(to.shape(node)), -1, _LEAST, -1)
    return name


def roll(to: Exporter, node: Node) -> str:
    """`aten.roll`."""
    name, given, shape = to.value(node, "self"), arguments(node), to.shape(node)
    if not given["dims"]:
        raise UnsupportedOpError("no ONNX form for aten.roll over all axes at once", node=node)
    for shift, dim in zip(given["shifts"], given["dims"], strict=True):
        axis = dim % len(shape)
        cut = -shift % shape[axis]
        if cut:
            ends = [(cut, shape[axis]), (0, cut)]
            name = to.emit("Concat", [_sliced(to, name, axis, *end) for end in ends], axis=axis)
    return name


def pixel_shuffle(to: Exporter, node: Node) -> str:
    """`aten.pixel_shuffle` of four axes."""
    factor, name = arguments(node)["upscale_factor"], to.value(node, "self")
    if len(to.shape(node)) != 4:
        raise UnsupportedOpError("no ONNX form for aten.pixel_shuffle of not 4 axes", node=node)
    return to.emit("DepthToSpace", [name], blocksize=factor, mode="CRD")


def pixel_unshuffle(to: Exporter, node: Node) -> str:
    """`aten.pixel_unshuffle`."""
    *rest, height, width = to.shape(arguments(node)["self"])
    factor, n = arguments(node)["downscale_factor"], len(rest)
    split = (*rest, height // factor, factor, width // factor, factor)
    order = [*range(n), n + 1, n + 3, n, n + 2]
    return _shuffled(to, node, split, order)


def channel_shuffle(to: Exporter, node: Node) -> str:
    """`aten.channel_shuffle`."""
    batch, channels, *rest = to.shape(node)
    groups = arguments(node)["groups"]
    split = (batch, groups, channels // groups, *rest)
    return _shuffled(to, node, split, [0, 2, 1, *range(3, len(split))])


def _shuffled(to: Exporter, node: Node, split: tuple[int, ...], order: list[int]) -> str:
    """The axes, divided into those of `split`, in another order, and put together again."""
    name = to.emit("Reshape", [to.value(node, "self"), to.integers(split)])
    name = to.emit("Transpose", [name], perm=order)
    return to.emit("Reshape", [name, to.integers(to.shape(node))])


def max_pool2d(to: Exporter, node: Node) -> str:
    """`qpc::max_pool2d` and `aten.max_pool2d`."""
    given = arguments(node)
    pairs = {k: Pair().decode(given[k]) for k in ("kernel_size", "padding", "dilation")}
    source = given["q"] if "q" in given else given["self"]
    return to.emit(
        "MaxPool",
        [to.names[source]],
        kernel_shape=pairs["kernel_size"],
        strides=Pair().decode(given["stride"] or pairs["kernel_size"]),
        pads=pairs["padding"] * 2,
        dilations=pairs["dilation"],
        ceil_mode=int(given["ceil_mode"]),
    )


def pad(to: Exporter, node: Node) -> str:
    """`aten.constant_pad_nd`, unless the convolutions that read it do it."""
    view = Pad(node)
    if zero_padding(to, node) is not None and all(IntConv2d.matches(user) for user in node.users):
        return to.names[view.input]
    rank, value = len(to.shape(node)), view.value
    if to.shape(node) and _is_integer(to, node):
        grid = to.grid(node)
        value = (view.value - grid.zero_point) * grid.scale
    before, after = [0] * rank, [0] * rank
    for i in range(len(view.pad) // 2):
        before[-1 - i], after[-1 - i] = view.pad[2 * i : 2 * i + 2]
    ends = [to.integers([*before, *after]), to.constant(np.float32(value))]
    return to.emit("Pad", [to.names[view.input], *ends])


def _is_integer(to: Exporter, node: Node) -> bool:
    return getattr(to.types[node], "dtype", None) in (torch.uint8, torch.int8)


# --- resizing -------------------------------------------------------------------------------------


def resize2d(to: Exporter, node: Node) -> str:
    """`qpc::resize2d`: the interpolation is found by making the places of all that are known.

    What takes whole pixels in another way, such as padding by reflection, becomes a Gather.
    """
    name, sizes = to.value(node, "q"), to.shape(arguments(node)["q"])[2:]
    places = [to.tensor(node, axis) for axis in ("rows", "columns")]
    for way, attributes in _WAYS:
        if all(
            torch.equal(_places(way, size, len(place)), place)
            for size, place in zip(sizes, places, strict=True)
        ):
            return to.emit("Resize", [name, "", "", to.integers(to.shape(node))], **attributes)
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

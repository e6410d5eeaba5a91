"""Operators that move values, of integers and of floats."""

from __future__ import annotations

import numpy as np
from torch.fx import Node

from qpc.backends.onnx.exporter import Exporter, Rule
from qpc.calls import arguments, aten
from qpc.errors import UnsupportedOpError
from qpc.meta import attribute

_LEAST = -(2**63)  # the end of a slice that goes backwards through all of an axis


def _reshape(to: Exporter, node: Node) -> str:
    """`aten.reshape`."""
    return to.emit("Reshape", [to.value(node, "self"), to.integers(to.shape(node))])


def _permute(to: Exporter, node: Node) -> str:
    """`aten.permute`."""
    given = arguments(node)
    rank = len(given["dims"])
    return to.emit("Transpose", [to.value(node, "self")], perm=[d % rank for d in given["dims"]])


def _expand(to: Exporter, node: Node) -> str:
    """`aten.expand`."""
    return to.emit("Expand", [to.value(node, "self"), to.integers(to.shape(node))])


def _repeat(to: Exporter, node: Node) -> str:
    """`aten.repeat`, which may add axes in front."""
    given = arguments(node)
    counts, shape = given["repeats"], to.shape(given["self"])
    shape = (*[1] * (len(counts) - len(shape)), *shape)
    wide = to.emit("Reshape", [to.value(node, "self"), to.integers(shape)])
    return to.emit("Tile", [wide, to.integers(counts)])


def _index(to: Exporter, node: Node) -> str:
    """`aten.index` along one axis, and `aten.index_select`, by constants."""
    given = arguments(node)
    rank = len(to.shape(given["self"]))
    if "index" in given:
        axis, index = given["dim"] % rank, given["index"]
    else:
        chosen = [(a, i) for a, i in enumerate(given["indices"]) if i is not None]
        if len(chosen) != 1:
            raise UnsupportedOpError("no ONNX form for places along several axes", node=node)
        ((axis, index),) = chosen
    if index.op != "get_attr":
        raise UnsupportedOpError("no ONNX form for places that are computed", node=node)
    places = attribute(to.gm, str(index.target)).numpy()
    return to.emit("Gather", [to.value(node, "self"), to.constant(places)], axis=axis)


def _slice(to: Exporter, node: Node) -> str:
    """`aten.slice`."""
    given = arguments(node)
    axis = given["dim"] % len(to.shape(node))
    size = to.shape(given["self"])[axis]
    start = given["start"] or 0
    end = size if given["end"] is None else min(given["end"], size)
    return _sliced(to, to.value(node, "self"), axis, start, end, given["step"])


def _sliced(to: Exporter, name: str, axis: int, start: int, end: int, step: int = 1) -> str:
    return to.emit("Slice", [name, *(to.integers([v]) for v in (start, end, axis, step))])


def _select(to: Exporter, node: Node) -> str:
    """`aten.select`."""
    given = arguments(node)
    axis = given["dim"] % len(to.shape(given["self"]))
    index = given["index"] % to.shape(given["self"])[axis]
    return to.emit("Gather", [to.value(node, "self"), to.constant(np.int64(index))], axis=axis)


def _flip(to: Exporter, node: Node) -> str:
    """`aten.flip`."""
    name, given = to.value(node, "self"), arguments(node)
    for dim in given["dims"]:
        name = _sliced(to, name, dim % len(to.shape(node)), -1, _LEAST, -1)
    return name


def _roll(to: Exporter, node: Node) -> str:
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


def _pixel_shuffle(to: Exporter, node: Node) -> str:
    """`aten.pixel_shuffle` of four axes."""
    factor, name = arguments(node)["upscale_factor"], to.value(node, "self")
    if len(to.shape(node)) != 4:
        raise UnsupportedOpError("no ONNX form for aten.pixel_shuffle of not 4 axes", node=node)
    return to.emit("DepthToSpace", [name], blocksize=factor, mode="CRD")


def _pixel_unshuffle(to: Exporter, node: Node) -> str:
    """`aten.pixel_unshuffle`."""
    *rest, height, width = to.shape(arguments(node)["self"])
    factor, n = arguments(node)["downscale_factor"], len(rest)
    split = (*rest, height // factor, factor, width // factor, factor)
    order = [*range(n), n + 1, n + 3, n, n + 2]
    return _shuffled(to, node, split, order)


def _channel_shuffle(to: Exporter, node: Node) -> str:
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


RULES: dict[object, Rule] = {
    aten.expand.default: _expand,
    aten.repeat.default: _repeat,
    aten.index.Tensor: _index,
    aten.index_select.default: _index,
    aten.reshape.default: _reshape,
    aten.permute.default: _permute,
    aten.slice.Tensor: _slice,
    aten.select.int: _select,
    aten.flip.default: _flip,
    aten.roll.default: _roll,
    aten.pixel_shuffle.default: _pixel_shuffle,
    aten.pixel_unshuffle.default: _pixel_unshuffle,
    aten.channel_shuffle.default: _channel_shuffle,
}

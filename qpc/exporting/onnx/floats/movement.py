"""Operators that move values, of integers and of floats."""

from __future__ import annotations

import operator
from collections.abc import Sequence

import numpy as np
import torch
from torch.fx import Node

from qpc.calls import arguments, aten
from qpc.errors import UnsupportedOpError
from qpc.exporting.onnx.exporter import Exporter, Rule
from qpc.types import BatchDim, Dim

_LEAST, _MOST = -(2**63), 2**63 - 1  # ends of slices that go through all of an axis


def reshape(to: Exporter, node: Node) -> str:
    """`aten.reshape`, and others that only change the shape."""
    return to.reshaped(to.of(node.all_input_nodes[0]), to.shape(node))


def _permute(to: Exporter, node: Node) -> str:
    """`aten.permute`."""
    given = arguments(node)
    rank = len(given["dims"])
    return to.emit("Transpose", [to.value(node, "self")], perm=[d % rank for d in given["dims"]])


def _transpose(to: Exporter, node: Node) -> str:
    """`aten.transpose`."""
    given, rank = arguments(node), len(to.shape(node))
    order, a, b = list(range(rank)), given["dim0"] % rank, given["dim1"] % rank
    order[a], order[b] = order[b], order[a]
    return to.emit("Transpose", [to.value(node, "self")], perm=order)


def _slice(to: Exporter, node: Node) -> str:
    """`aten.slice`."""
    given = arguments(node)
    axis = given["dim"] % len(to.shape(node))
    start, end = to.number(given["start"]), to.number(given["end"])
    return sliced(to, to.value(node, "self"), axis, start or 0, end, given["step"])


def sliced(to: Exporter, name: str, axis: int, start: object, end: object, step: int = 1) -> str:
    """A part of an axis; None is its end."""
    ends = [
        to.extent(v) if isinstance(v, BatchDim) else to.integers([_MOST if v is None else v])
        for v in (start, end)
        if v is None or isinstance(v, int | BatchDim)
    ]
    return to.emit("Slice", [name, *ends, to.integers([axis]), to.integers([step])])


def _select(to: Exporter, node: Node) -> str:
    """`aten.select`."""
    given = arguments(node)
    axis = given["dim"] % len(to.shape(given["self"]))
    index = to.constant(np.int64(int(given["index"])))
    return to.emit("Gather", [to.value(node, "self"), index], axis=axis)


def _flip(to: Exporter, node: Node) -> str:
    """`aten.flip`."""
    name, given = to.value(node, "self"), arguments(node)
    for dim in given["dims"]:
        name = sliced(to, name, dim % len(to.shape(node)), -1, _LEAST, -1)
    return name


def _roll(to: Exporter, node: Node) -> str:
    """`aten.roll`."""
    name, given, shape = to.value(node, "self"), arguments(node), to.shape(node)
    if not given["dims"]:
        raise UnsupportedOpError("no ONNX form for aten.roll over all axes at once", node=node)
    for shift, dim in zip(given["shifts"], given["dims"], strict=True):
        axis = dim % len(shape)
        size = to.size(node, axis)
        cut = -shift % size if size else 0
        if cut:
            ends = [(cut, None), (0, cut)]
            name = to.emit("Concat", [sliced(to, name, axis, *end) for end in ends], axis=axis)
    return name


def _expand(to: Exporter, node: Node) -> str:
    """`aten.expand`."""
    source, shape = arguments(node)["self"], to.shape(node)
    if to.shape(source) == shape:
        return to.of(source)
    return to.emit("Expand", [to.of(source), to.extents(shape)])


def _repeat(to: Exporter, node: Node) -> str:
    """`aten.repeat`."""
    given = arguments(node)
    times = [to.number(count) for count in given["repeats"]]
    source, name = to.shape(given["self"]), to.value(node, "self")
    if len(times) > len(source):
        name = to.reshaped(name, (*[1] * (len(times) - len(source)), *source))
    known = [count for count in times if isinstance(count, int | BatchDim)]
    return to.emit("Tile", [name, to.extents(known)])


def _stack(to: Exporter, node: Node) -> str:
    """`aten.stack`."""
    given, rank = arguments(node), len(to.shape(node))
    axis = given["dim"] % rank
    shape = (*to.shape(node)[:axis], 1, *to.shape(node)[axis + 1 :])
    pieces = [to.reshaped(to.of(tensor), shape) for tensor in given["tensors"]]
    return to.emit("Concat", pieces, axis=axis)


def _pixel_shuffle(to: Exporter, node: Node) -> str:
    """`aten.pixel_shuffle` of four axes."""
    factor, name = arguments(node)["upscale_factor"], to.value(node, "self")
    if len(to.shape(node)) != 4:
        raise UnsupportedOpError("no ONNX form for aten.pixel_shuffle of not 4 axes", node=node)
    if not to.form.exact:
        return to.emit("DepthToSpace", [name], blocksize=factor, mode="CRD")
    batch, channels, height, width = to.shape(arguments(node)["self"])
    assert isinstance(channels, int)
    split = (batch, channels // factor**2, factor, factor, height, width)
    return _shuffled(to, node, split, [0, 1, 4, 2, 5, 3])


def _pixel_unshuffle(to: Exporter, node: Node) -> str:
    """`aten.pixel_unshuffle`."""
    source = arguments(node)["self"]
    *rest, _, _ = to.shape(source)
    height, width = to.size(source, -2), to.size(source, -1)
    factor, n = arguments(node)["downscale_factor"], len(rest)
    split = (*rest, height // factor, factor, width // factor, factor)
    order = [*range(n), n + 1, n + 3, n, n + 2]
    return _shuffled(to, node, split, order)


def _channel_shuffle(to: Exporter, node: Node) -> str:
    """`aten.channel_shuffle`."""
    batch, _, *rest = to.shape(node)
    groups = arguments(node)["groups"]
    split = (batch, groups, to.size(node, 1) // groups, *rest)
    return _shuffled(to, node, split, [0, 2, 1, *range(3, len(split))])


def _shuffled(to: Exporter, node: Node, split: Sequence[Dim], order: list[int]) -> str:
    """The axes, divided into those of `split`, in another order, and put together again."""
    name = to.reshaped(to.value(node, "self"), split)
    name = to.emit("Transpose", [name], perm=order)
    return to.reshaped(name, to.shape(node))


def _same(to: Exporter, node: Node) -> str:
    """Copies."""
    return to.of(node.all_input_nodes[0])


def _split_with_sizes(to: Exporter, node: Node) -> tuple[str, ...]:
    """`aten.split_with_sizes`."""
    given = arguments(node)
    axis, start, pieces = given["dim"] % len(to.shape(given["self"])), 0, []
    for size in given["split_sizes"]:
        pieces.append(sliced(to, to.value(node, "self"), axis, start, start + size))
        start += size
    return tuple(pieces)


def _part(to: Exporter, node: Node) -> str:
    """One of several results."""
    source, index = node.args
    if not isinstance(source, Node) or source not in to.parts or not isinstance(index, int):
        raise UnsupportedOpError("no ONNX form for this part of a value", node=node)
    return to.parts[source][index]


def _unfold(to: Exporter, node: Node) -> str:
    """`aten.unfold`: windows along an axis, which becomes two."""
    given = arguments(node)
    rank = len(to.shape(given["self"]))
    axis = given["dimension"] % rank
    count, size, step = to.size(node, axis), given["size"], given["step"]
    places = torch.arange(count)[:, None] * step + torch.arange(size)
    name = to.emit("Gather", [to.value(node, "self"), to.constant(places.numpy())], axis=axis)
    order = [*range(axis + 1), *range(axis + 2, rank + 1), axis + 1]
    return to.emit("Transpose", [name], perm=order)


RULES: dict[object, Rule] = {
    **dict.fromkeys(
        (
            aten.reshape.default,
            aten.view.default,
            aten.unsqueeze.default,
            aten.squeeze.dim,
            aten.squeeze.dims,
            aten.flatten.using_ints,
        ),
        reshape,
    ),
    **dict.fromkeys(
        (aten.clone.default, aten.contiguous.default, aten.alias.default, aten.detach.default),
        _same,
    ),
    aten.permute.default: _permute,
    aten.transpose.int: _transpose,
    aten.slice.Tensor: _slice,
    aten.select.int: _select,
    aten.flip.default: _flip,
    aten.roll.default: _roll,
    aten.expand.default: _expand,
    aten.repeat.default: _repeat,
    aten.stack.default: _stack,
    aten.split_with_sizes.default: _split_with_sizes,
    aten.unfold.default: _unfold,
    operator.getitem: _part,
    aten.pixel_shuffle.default: _pixel_shuffle,
    aten.pixel_unshuffle.default: _pixel_unshuffle,
    aten.channel_shuffle.default: _channel_shuffle,
}

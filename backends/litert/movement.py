"""Operators that move values, of integers and of floats."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from torch.fx import Node

from qpc.backends.litert.arithmetic import aligned
from qpc.backends.litert.concat import concatenated
from qpc.backends.litert.exporter import Exporter, Refused, Rule
from qpc.backends.litert.stored import stored_axes, stored_axis
from qpc.backends.litert.tables import Kind
from qpc.calls import arguments, aten

_STRIDED_SLICE = 32  # number of its options


def sliced(to: Exporter, index: int, axis: int, start: int, end: int, step: int = 1) -> int:
    """Some of the indices of a stored axis, none of which counts from the end."""
    shape = list(to.stored(index).shape)
    if (start, end, step) == (0, shape[axis], 1):
        return index
    ends = [[0] * len(shape), list(shape), [1] * len(shape)]
    for values, value in zip(ends, (start, end, step), strict=True):
        values[axis] = value
    shape[axis] = len(range(start, end, step))
    rows = [to.row(values) for values in ends]
    return to.emit(Kind.STRIDED_SLICE, [index, *rows], to.like(index, shape), (_STRIDED_SLICE, {}))


def cut_image(to: Exporter, index: int, start: Sequence[int], size: Sequence[int]) -> int:
    """Rows and columns of an image, `size` of them from `start` on."""
    for axis, (first, count) in enumerate(zip(start, size, strict=True), 1):
        index = sliced(to, index, axis, first, first + count)
    return index


def _reshape(to: Exporter, node: Node) -> int:
    """`aten.reshape`."""
    index = to.logical(to.operand(arguments(node)["self"]))
    return to.as_stored(to.reshape(index, to.shape(node)))


def _permute(to: Exporter, node: Node) -> int:
    """`aten.permute`."""
    rank = len(to.shape(node))
    dims = [d % rank for d in arguments(node)["dims"]]
    wanted = [dims[axis] for axis in stored_axes(rank)]
    return to.arrange(to.operand(arguments(node)["self"]), stored_axes(rank), wanted)


def _slice(to: Exporter, node: Node) -> int:
    """`aten.slice`."""
    given, shape = arguments(node), to.shape(arguments(node)["self"])
    start, end, step = slice(given["start"], given["end"], given["step"]).indices(
        shape[given["dim"]]
    )
    axis = stored_axis(given["dim"], len(shape))
    return sliced(to, to.operand(arguments(node)["self"]), axis, start, max(start, end), step)


def _select(to: Exporter, node: Node) -> int:
    """`aten.select`."""
    given, shape = arguments(node), to.shape(arguments(node)["self"])
    place = given["index"] % shape[given["dim"]]
    axis = stored_axis(given["dim"], len(shape))
    index = sliced(to, to.operand(arguments(node)["self"]), axis, place, place + 1)
    return without_axes(to, index, [given["dim"] % len(shape)], len(shape))


def without_axes(to: Exporter, index: int, axes: Collection[int], rank: int) -> int:
    """A stored tensor of `rank` axes without some, logical ones, that have size 1."""
    left = [axis for axis in stored_axes(rank) if axis not in axes]
    shape = to.stored(index).shape
    kept = [shape[stored_axes(rank).index(axis)] for axis in left]
    index = to.reshape(index, kept)
    order = sorted(left)
    wanted = [order[i] for i in stored_axes(len(order))]
    return to.arrange(index, left, wanted)


def _flip(to: Exporter, node: Node) -> int:
    """`aten.flip`, one axis at a time: that is what every runtime can do."""
    index, rank = to.operand(arguments(node)["self"]), len(to.shape(node))
    for dim in arguments(node)["dims"]:
        axis = to.row([stored_axis(dim, rank)])
        index = to.emit(Kind.REVERSE_V2, [index, axis], to.like(index, to.stored(index).shape))
    return index


def _roll(to: Exporter, node: Node) -> int:
    """`aten.roll`."""
    given, shape = arguments(node), to.shape(node)
    if not given["dims"]:
        raise Refused("it rolls all axes at once")
    index = to.operand(arguments(node)["self"])
    for shift, dim in zip(given["shifts"], given["dims"], strict=True):
        axis, size = stored_axis(dim, len(shape)), shape[dim]
        cut = -shift % size
        if cut:
            ends = (cut, size), (0, cut)
            index = concatenated(to, [sliced(to, index, axis, *end) for end in ends], axis)
    return index


def _channel_shuffle(to: Exporter, node: Node) -> int:
    """`aten.channel_shuffle`: channels as [groups, each], turned around."""
    index, groups = to.operand(arguments(node)["self"]), arguments(node)["groups"]
    rank, channel = len(to.shape(node)), stored_axis(1, len(to.shape(node)))
    shape = to.stored(index).shape
    before, channels, after = shape[:channel], shape[channel], shape[channel + 1 :]
    split = (_product(before), groups, channels // groups, _product(after))
    index = to.arrange(to.reshape(index, split), range(4), [0, 2, 1, 3])
    assert rank == len(shape)
    return to.reshape(index, shape)


def _pixel_shuffle(to: Exporter, node: Node) -> int:
    """`aten.pixel_shuffle`: channels as [channels, down, right], beside rows and columns."""
    if len(to.shape(node)) != 4:
        raise Refused("it has not four axes")
    index, factor = to.operand(arguments(node)["self"]), arguments(node)["upscale_factor"]
    batch, height, width, channels = to.stored(index).shape
    split = (batch * height, width, channels // factor**2, factor, factor)
    index = to.arrange(to.reshape(index, split), range(5), [0, 3, 1, 4, 2])
    return to.reshape(index, (batch, height * factor, width * factor, channels // factor**2))


def _pixel_unshuffle(to: Exporter, node: Node) -> int:
    """`aten.pixel_unshuffle`."""
    if len(to.shape(node)) != 4:
        raise Refused("it has not four axes")
    index, factor = to.operand(arguments(node)["self"]), arguments(node)["downscale_factor"]
    batch, height, width, channels = to.stored(index).shape
    rows, columns = height // factor, width // factor
    split = (batch * rows, factor, columns, factor, channels)
    index = to.arrange(to.reshape(index, split), range(5), [0, 2, 4, 1, 3])
    return to.reshape(index, (batch, rows, columns, channels * factor**2))


def _tiled(to: Exporter, node: Node) -> int:
    """`aten.expand` and `aten.repeat`: a tensor several times, whose axes are the last ones."""
    rank = len(to.shape(node))
    index = aligned(to, to.operand(arguments(node)["self"]), rank)
    before, after = to.stored(index).shape, to.shape(node)
    times = [after[axis] // size for axis, size in zip(stored_axes(rank), before, strict=True)]
    if all(count == 1 for count in times):
        return index
    return to.emit(Kind.TILE, [index, to.row(times)], to.shaped_as(node, index))


def _product(sizes: Sequence[int]) -> int:
    found = 1
    for size in sizes:
        found *= size
    return found


RULES: dict[object, Rule] = {
    aten.reshape.default: _reshape,
    aten.permute.default: _permute,
    aten.slice.Tensor: _slice,
    aten.select.int: _select,
    aten.flip.default: _flip,
    aten.roll.default: _roll,
    aten.pixel_shuffle.default: _pixel_shuffle,
    aten.pixel_unshuffle.default: _pixel_unshuffle,
    aten.channel_shuffle.default: _channel_shuffle,
    aten.expand.default: _tiled,
    aten.repeat.default: _tiled,
}

"""Assignments to parts of tensors, as in `y[:, :8] = x`: new values, joined with what is left.

Zeros around a new value are padding, so that `z = torch.zeros_like(y); z[:, 1:] = y[:, :-1]` is a
shift. Assignments to every other element stay, and those to other numbers than floats.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.fx import Node

from qpc.calls import arguments
from qpc.capture.rules.call import Call, reshape_sizes, shape_of, table
from qpc.capture.rules.filled import Filled, amounts, filled_with, joined
from qpc.meta import info

aten = torch.ops.aten


def _copy(call: Call) -> Node | None:
    """What is copied, if it need not be expanded."""
    source, dtype = call.source("src"), info(call.node).dtype
    if shape_of(source) != call.shape or dtype is None:
        return None
    return source if info(source).dtype is dtype else call.emit(aten.to.dtype, source, dtype)


def _slice_scatter(call: Call) -> Node | None:
    new, start, end = call.source("src"), call.args["start"] or 0, call.args["end"]
    axis = int(call.args["dim"]) % call.rank
    size = call.shape[axis]
    if call.args["step"] != 1 or not isinstance(start, int) or not isinstance(end, int | None):
        return None
    if shape_of(new) == call.shape:
        return new
    if not isinstance(size, int):
        return None
    first, last, _ = slice(start, end).indices(size)
    return _written(call, new, axis, first, last)


def _select_scatter(call: Call) -> Node | None:
    axis, index = int(call.args["dim"]) % call.rank, call.args["index"]
    size = call.shape[axis]
    if not isinstance(size, int) or not isinstance(index, int):
        return None
    if (sizes := reshape_sizes(call.shape)) is None:
        return None
    sizes[axis] = 1
    new = call.emit(aten.reshape.default, call.source("src"), sizes)
    return _written(call, new, axis, index % size, index % size + 1)


def _written(call: Call, new: Node, axis: int, first: int, last: int) -> Node | None:
    """The old value with another one from `first` to `last` of an axis."""
    old, size, dtype = call.source(), call.shape[axis], info(call.node).dtype
    assert isinstance(size, int)
    if dtype is None or not dtype.is_floating_point or info(new).dtype is not dtype:
        return None
    before, after = _parts(call, old, axis, 0, first), _parts(call, old, axis, last, size)
    parts = [*before, *_parts(call, new, axis, 0, last - first), *after]
    return joined(call, parts, axis) if any(isinstance(part, Node) for part in parts) else None


def _parts(call: Call, value: Node, axis: int, start: int, stop: int) -> Iterator[Node | Filled]:
    """What lies between two places of an axis, as far apart as the value was joined together."""
    if start >= stop:
        return
    if (number := filled_with(call.gm, value)) is not None:
        yield Filled(number, stop - start)
        return
    place = 0
    for part in _joints(value, axis):
        size = part.size if isinstance(part, Filled) else shape_of(part)[axis]
        assert isinstance(size, int)
        first, last = max(start - place, 0), min(stop - place, size)
        place += size
        if first >= last:
            continue
        if isinstance(part, Filled):
            yield Filled(part.number, last - first)
        elif part is not value:
            yield from _parts(call, part, axis, first, last)
        elif (first, last) == (0, size):
            yield part
        else:
            yield _cut(call, part, axis, first, last)


def _cut(call: Call, value: Node, axis: int, first: int, last: int) -> Node:
    """A slice of a value, or of that of which it is a slice itself."""
    given = arguments(value) if value.target is aten.slice.Tensor else {}
    if given.get("step") == 1 and given["dim"] == axis and isinstance(given["start"], int):
        value, first, last = given["self"], first + given["start"], last + given["start"]
    return call.emit(aten.slice.Tensor, value, axis, first, last, 1)


def _joints(value: Node, axis: int) -> Iterator[Node | Filled]:
    """The parts that a value is joined of along an axis: only itself, if it is not."""
    rank = len(shape_of(value))
    if value.target is aten.cat.default and arguments(value)["dim"] % rank == axis:
        pieces = arguments(value)["tensors"]
        if all(isinstance(shape_of(piece)[axis], int) for piece in pieces):
            yield from pieces
            return
    if value.target is aten.constant_pad_nd.default:
        by_axis = amounts(value, rank)
        before, after = by_axis.pop(axis, (0, 0))
        if min(before, after) >= 0 and not any(map(any, by_axis.values())):
            number, inner = arguments(value)["value"], value.all_input_nodes[0]
            yield from (Filled(number, before), inner, Filled(number, after))
            return
    yield value


RULES = table(
    (_copy, "copy.default"),
    (_slice_scatter, "slice_scatter.default"),
    (_select_scatter, "select_scatter.default"),
)

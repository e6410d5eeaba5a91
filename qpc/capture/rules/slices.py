"""Operators that take tensors apart and put them together: slices, `select`, `cat`."""

from __future__ import annotations

import torch
from torch.fx import Node

from qpc.capture.rules.call import Call, reshape_sizes, shape_of, table
from qpc.capture.rules.filled import Filled, filled_with, joined
from qpc.meta import info

aten = torch.ops.aten


_LAST = 2**63 - 1  # ATen's "up to the end" in slices


def _pieces(call: Call) -> list[Node] | None:
    """chunk, split and their kin; the sizes come from running the operator on fake tensors."""
    source = call.source()
    shape = shape_of(source)
    axis = int(call.args["dim"]) % len(shape)
    if call.args.get("chunks") == 1:
        return [source]
    if not isinstance(shape[axis], int):
        return None
    pieces = call.target(
        torch.empty([d if isinstance(d, int) else 2 for d in shape], device="meta"),
        *[v for n, v in call.args.items() if n != "self"],
    )
    made, start = [], 0
    for piece in pieces:
        stop = start + piece.shape[axis]
        made.append(call.emit(aten.slice.Tensor, source, axis, start, stop, 1))
        start = stop
    return made


def _unbind(call: Call) -> list[Node] | None:
    source = call.source()
    shape = shape_of(source)
    axis = int(call.args["dim"]) % len(shape)
    size = shape[axis]
    if not isinstance(size, int):
        return None
    return [call.emit(aten.select.int, source, axis, i) for i in range(size)]


def _slice(call: Call) -> Node | None:
    """A slice of everything is nothing; other slices get explicit bounds."""
    source = call.source()
    shape = shape_of(source)
    axis = int(call.args["dim"]) % len(shape)
    size, step = shape[axis], call.args["step"]
    start, end = call.args["start"] or 0, call.args["end"]
    if end is None:
        end = _LAST
    if step == 1 and start == 0 and isinstance(end, int) and end >= _LAST:
        return source
    if not (isinstance(size, int) and isinstance(start, int) and isinstance(end, int)):
        return None
    first, last, _ = slice(start, end, step).indices(size)
    if (first, last, step) == (0, size, 1):
        return source
    explicit = (source, axis, first, last, step)
    return None if call.node.args == explicit else call.emit(aten.slice.Tensor, *explicit)


def _windows(call: Call) -> Node | None:
    """Windows that lie side by side are pieces of an axis, which then comes last."""
    shape, length, step = shape_of(call.source()), call.args["size"], call.args["step"]
    axis = int(call.args["dimension"]) % max(len(shape), 1)
    if not shape or not isinstance(shape[axis], int) or length != step:
        return None
    if (sizes := reshape_sizes(shape)) is None:
        return None
    count, source = shape[axis] // step, call.source()
    if count * step < shape[axis]:
        source = call.emit(aten.slice.Tensor, source, axis, 0, count * step, 1)
    apart = [*sizes[:axis], count, step, *sizes[axis + 1 :]]
    order = [d for d in range(len(apart)) if d != axis + 1]
    return call.emit(
        aten.permute.default, call.emit(aten.reshape.default, source, apart), [*order, axis + 1]
    )


def _narrow(call: Call) -> Node | None:
    shape, start, length = shape_of(call.source()), call.args["start"], call.args["length"]
    axis = int(call.args["dim"]) % len(shape)
    size = shape[axis]
    if not (isinstance(size, int) and isinstance(start, int) and isinstance(length, int)):
        return None
    start += size if start < 0 else 0
    return call.emit(aten.slice.Tensor, call.source(), axis, start, start + length, 1)


def _stack(call: Call) -> Node | None:
    tensors, axis = call.args["tensors"], call.args["dim"]
    axis %= len(call.shape)
    if (sizes := reshape_sizes(shape_of(tensors[0]))) is None:
        return None
    sizes.insert(axis, 1)
    return call.emit(
        aten.cat.default, [call.emit(aten.reshape.default, t, sizes) for t in tensors], axis
    )


def _cat(call: Call) -> Node | None:
    """Of all pieces that hold something: of no tokens, there may be a parameter of none."""
    given: list[Node] = call.args["tensors"]
    axis = call.args["dim"] % len(call.shape)
    empty = [t for t in given if 0 in shape_of(t) and info(t).dtype is info(call.node).dtype]
    tensors = [t for t in given if t not in empty] or given
    if len(tensors) == 1:
        return tensors[0]
    parts = _with_zeros(call, tensors, axis)
    if any(isinstance(part, Filled) for part in parts):
        return joined(call, parts, axis)
    if call.target is aten.cat.default and axis == call.args["dim"] and len(tensors) == len(given):
        return None
    return call.emit(aten.cat.default, list(tensors), axis)


def _with_zeros(call: Call, tensors: list[Node], axis: int) -> list[Node | Filled]:
    """The pieces of a concat, where zeros beside other floats are only their number."""
    dtype = info(call.node).dtype
    if dtype is None or not dtype.is_floating_point:
        return list(tensors)
    parts: list[Node | Filled] = []
    for piece in tensors:
        size, alike = shape_of(piece)[axis], info(piece).dtype is dtype
        if isinstance(size, int) and alike and filled_with(call.gm, piece) == 0:
            parts.append(Filled(0, size))
        else:
            parts.append(piece)
    return parts if any(isinstance(part, Node) for part in parts) else list(tensors)


RULES = table(
    (
        _pieces,
        "chunk.default split.Tensor split.sizes split_with_sizes.default "
        "tensor_split.sections tensor_split.indices",
    ),
    (_unbind, "unbind.int"),
    (_slice, "slice.Tensor"),
    (_narrow, "narrow.default"),
    (_windows, "unfold.default"),
    (_stack, "stack.default"),
    (_cat, "cat.default concat.default concatenate.default"),
)

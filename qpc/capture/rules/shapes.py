"""Operators that change only the shape: one `reshape`, or nothing; expansions."""

from __future__ import annotations

import torch
from torch.fx import GraphModule, Node

from qpc.capture.rules.call import Call, overloads, reshape_sizes, shape_of, table
from qpc.meta import info

aten = torch.ops.aten


def _as_reshape(call: Call) -> Node | None:
    source, shape = call.source(), call.shape
    if shape_of(source) == shape:
        return source
    if (sizes := reshape_sizes(shape)) is None:
        return None
    if call.target is aten.reshape.default and call.args["shape"] == sizes:
        return None
    return call.emit(aten.reshape.default, source, sizes)


def _as_input(call: Call) -> Node | None:
    return call.source(next(iter(call.args)))


def _cast(call: Call) -> Node | None:
    source = call.source()
    return source if info(source).dtype == info(call.node).dtype else None


def _expand(call: Call) -> Node | None:
    source, shape = call.source(), call.shape
    old = shape_of(source)
    if shape == old:
        return source
    if call.target is aten.expand.default:
        return None
    kept: list[int | Node] = []
    aligned: list[object] = [None] * (len(shape) - len(old)) + list(old)
    for axis, (before, after) in enumerate(zip(aligned, shape, strict=True)):
        if before == after:
            kept.append(-1)
        elif isinstance(after, int):
            kept.append(after)
        else:
            kept.append(call.emit(aten.sym_size.int, call.args["other"], axis))
    return call.emit(aten.expand.default, source, kept)


def _tile(call: Call) -> Node:
    """Repetitions are counted from the last axis, and need not be given for all."""
    given = list(call.args["dims"])
    return call.emit(aten.repeat.default, call.source(), [1] * (call.rank - len(given)) + given)


def _repeat_each(call: Call) -> Node | None:
    """Each element of an axis several times: along an axis of its own, and both are then one."""
    repeats, dim, shape = call.args["repeats"], call.args["dim"], shape_of(call.source())
    sizes, made = reshape_sizes(shape), reshape_sizes(call.shape)
    if not isinstance(repeats, int) or dim is None or sizes is None or made is None:
        return None
    axis = int(dim) % len(shape) + 1
    apart = call.emit(aten.reshape.default, call.source(), [*sizes[:axis], 1, *sizes[axis:]])
    times = [repeats if d == axis else -1 for d in range(len(shape) + 1)]
    wide = call.emit(aten.expand.default, apart, times)
    return call.emit(aten.reshape.default, wide, made)


_ARITHMETIC = ("add.Tensor", "sub.Tensor", "mul.Tensor", "div.Tensor", "pow.Tensor_Tensor")
_CHOICES = ("maximum.default", "minimum.default", "where.self")
_COMPARISONS = ("eq.Tensor", "ne.Tensor", "gt.Tensor", "lt.Tensor", "ge.Tensor", "le.Tensor")
_BROADCASTING = frozenset(overloads([*_ARITHMETIC, *_CHOICES, *_COMPARISONS]))


def drop_expansions(gm: GraphModule) -> None:
    """Let operators that broadcast read what was expanded for them, where nothing else tells."""
    for node in list(gm.graph.nodes):
        if node.target is not aten.expand.default:
            continue
        source = node.args[0]
        for user in list(node.users):
            if user.target in _BROADCASTING and _broadcasts(user, node, source):
                user.replace_input_with(node, source)


def _broadcasts(user: Node, node: Node, source: Node) -> bool:
    """Whether `user` has the same shape with `source` in place of the expanded `node`."""
    read = [source if value is node else value for value in user.all_input_nodes]
    shapes = [shape_of(value) for value in read]
    wanted = shape_of(user)
    if max(map(len, shapes)) != len(wanted):
        return False
    for axis, size in enumerate(reversed(wanted)):
        sizes = [shape[-1 - axis] for shape in shapes if axis < len(shape)]
        if size != 1 and all(found == 1 for found in sizes):
            return False
    return True


RULES = table(
    (
        _as_reshape,
        "view.default reshape.default _unsafe_view.default flatten.using_ints "
        "unflatten.int squeeze.default squeeze.dim squeeze.dims unsqueeze.default "
        "view_as.default reshape_as.default",
    ),
    (
        _as_input,
        "contiguous.default clone.default detach.default alias.default "
        "lift_fresh_copy.default lift_fresh.default",
    ),
    (_cast, "to.dtype to.dtype_layout to.device _to_copy.default type_as.default"),
    (_expand, "expand.default expand_as.default"),
    (_repeat_each, "repeat_interleave.self_int"),
    (_tile, "tile.default"),
)

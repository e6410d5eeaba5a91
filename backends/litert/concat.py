"""Joins."""

from __future__ import annotations

from collections.abc import Sequence

from torch.fx import Node

from qpc.backends.litert.exporter import Exporter, Rule
from qpc.backends.litert.stored import stored_axis
from qpc.backends.litert.tables import Kind, Number
from qpc.calls import aten
from qpc.ops.concat import Cat

_CONCATENATION = 10  # number of its options


def concatenated(to: Exporter, indices: Sequence[int], axis: int) -> int:
    """Tensors of one grid, one behind the other along a stored axis."""
    shape = list(to.stored(indices[0]).shape)
    shape[axis] = sum(to.stored(index).shape[axis] for index in indices)
    options = (_CONCATENATION, {0: Number(axis)})
    return to.emit(Kind.CONCATENATION, indices, to.like(indices[0], shape), options)


def _cat(to: Exporter, node: Node) -> int:
    """`aten.cat`."""
    view = Cat(node)
    axis = stored_axis(view.dim, len(to.shape(node)))
    return concatenated(to, [to.operand(v) for v in view.tensors], axis)


RULES: dict[object, Rule] = {
    aten.cat.default: _cat,
}

"""Values picked by their numbers."""

from __future__ import annotations

import numpy as np
from torch import Tensor
from torch.fx import Node

from qpc.backends.litert.exporter import Exporter, Refused, Rule
from qpc.backends.litert.stored import stored_axis
from qpc.backends.litert.tables import Kind, Number
from qpc.calls import arguments, aten
from qpc.meta import attribute

_GATHER = 23  # number of its options


def gathered(to: Exporter, index: int, places: list[int], axis: int) -> int:
    """The given places of a stored axis, none of which counts from the end."""
    shape = list(to.stored(index).shape)
    shape[axis] = len(places)
    inputs = [index, to.constant(np.array(places, np.int32))]
    return to.emit(Kind.GATHER, inputs, to.like(index, shape), (_GATHER, {0: Number(axis)}))


def _index_select(to: Exporter, node: Node) -> int:
    """`aten.index_select`."""
    given = arguments(node)
    return _picked(to, node, given["dim"], given["index"])


def _index(to: Exporter, node: Node) -> int:
    """`aten.index` by one row of numbers."""
    found = [(axis, i) for axis, i in enumerate(arguments(node)["indices"]) if i is not None]
    if len(found) != 1:
        raise Refused("it picks along several axes")
    return _picked(to, node, *found[0])


def _picked(to: Exporter, node: Node, axis: int, index: Node) -> int:
    shape = to.shape(arguments(node)["self"])
    if index.op != "get_attr":
        raise Refused("it picks by numbers that are computed")
    places: Tensor = attribute(to.gm, str(index.target))
    if places.dim() != 1 or not places.dtype.is_signed:
        raise Refused("it does not pick by one row of numbers")
    axis %= len(shape)
    whole = [place % shape[axis] for place in places.tolist()]
    return gathered(to, to.value(node, "self"), whole, stored_axis(axis, len(shape)))


RULES: dict[object, Rule] = {
    aten.index_select.default: _index_select,
    aten.index.Tensor: _index,
}

"""Orders of axes: how logical axes lie in memory, and the order that quantized inputs get.

An `Order` says which logical axis each physical axis holds: `(0, 2, 3, 1)` is a logical NCHW tensor
stored as NHWC. Axes of size 1 do not matter to memory, so two orders that differ only in them are
the same layout.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TypeAlias

from torch.fx import Node

from qpc.backends.common.traits import MemoryOrder, TraitTable, traits_of
from qpc.calls import aten, qpc_ops
from qpc.registry import Role, role_of
from qpc.types import Concrete, TensorType

Order: TypeAlias = tuple[int, ...]
NHWC: Order = (0, 2, 3, 1)
_OF_TWO = (
    *(aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor),
    *(aten.maximum.default, aten.minimum.default),
)


def identity(rank: int) -> Order:
    """Logical order."""
    return tuple(range(rank))


def permuted(items: Sequence[int], order: Iterable[int]) -> tuple[int, ...]:
    """`items` in another order."""
    return tuple(items[i] for i in order)


def significant(shape: Sequence[int], order: Order) -> Order:
    """The part of an order that matters to memory: axes of more than one element."""
    return tuple(axis for axis in order if shape[axis] != 1)


def channels_last(rank: int) -> Order:
    """The order that integer images have in memory; logical order for anything but images."""
    return NHWC if rank == len(NHWC) else identity(rank)


def is_elementwise(node: Node) -> bool:
    """Whether a float operator makes each result of the values at its place, whatever order."""
    return node.target in _OF_TWO or role_of(node) in (Role.POINTWISE, Role.CLAMP)


def choose_orders(
    nodes: Iterable[Node],
    types: Mapping[Node, Concrete],
    looked_through: Collection[Node],
    traits: TraitTable,
) -> dict[Node, Order]:
    """The order in which each quantize stores its result: the one that readers of it want.

    All other values follow from what they are computed from. looked_through: nodes that are no
    readers themselves, as their readers do what they do.
    """
    found = {}
    for node in nodes:
        known = types[node]
        if node.target is qpc_ops.quantize.default and isinstance(known, TensorType):
            found[node] = _wanted(node, len(known.shape), looked_through, traits)
    return found


def _wanted(node: Node, rank: int, looked_through: Collection[Node], traits: TraitTable) -> Order:
    """What the nearest reader that is not indifferent wants."""
    seen, pending = {node}, [node]
    while pending:
        for user in pending.pop(0).users:
            order = traits_of(user, traits).order
            if order is MemoryOrder.IMAGES:
                return channels_last(rank)
            if order is MemoryOrder.LOGICAL:
                return identity(rank)
            indifferent = order is MemoryOrder.KEPT or user in looked_through
            if indifferent and user not in seen:
                seen.add(user)
                pending.append(user)
    return identity(rank)

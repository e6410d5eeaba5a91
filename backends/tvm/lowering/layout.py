"""How logical tensors of the compiled program lie in memory, and how reshapes act on that."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from typing import ClassVar

import torch
from tvm.relax import Expr

from qpc.backends.common.channel_slice import ChannelSlice
from qpc.backends.common.orders import NHWC, Order, identity, permuted, significant
from qpc.backends.tvm.kernels.geometry import View
from qpc.types import dtype_name


@dataclass(frozen=True)
class Value:
    """A tensor in the compiled program: `expr` has the physical shape, `shape` is logical."""

    expr: Expr
    shape: tuple[int, ...]
    dtype: torch.dtype
    order: Order

    @property
    def physical_shape(self) -> tuple[int, ...]:
        """The shape in memory."""
        return permuted(self.shape, self.order)

    @property
    def view(self) -> View:
        """The value as kernels see it."""
        return View(self.physical_shape, dtype=dtype_name(self.dtype))

    def stored_as(self, order: Order) -> bool:
        """Whether memory already looks as it would in `order`."""
        return significant(self.shape, self.order) == significant(self.shape, order)

    def with_axes(self, order: Order) -> Value:
        """The value after a permutation of its logical axes, which moves no data."""
        return replace(
            self,
            shape=permuted(self.shape, order),
            order=tuple(order.index(axis) for axis in self.order),
        )


@dataclass(frozen=True)
class Slice:
    """Channels of images in memory, from `first` on, that have not been copied out of them.

    `whole` is stored as NHWC; `shape` is logical.
    """

    whole: Value
    first: int
    shape: tuple[int, ...]
    order: ClassVar[Order] = NHWC

    @property
    def expr(self) -> Expr:
        """The larger images."""
        return self.whole.expr

    @property
    def dtype(self) -> torch.dtype:
        """The type of the elements."""
        return self.whole.dtype

    @property
    def view(self) -> View:
        """The value as kernels see it."""
        share = ChannelSlice(self.first, self.whole.physical_shape[-1])
        return View(permuted(self.shape, NHWC), share, dtype_name(self.dtype))


@dataclass(frozen=True)
class ReshapePlan:
    """Permute physical axes to `stored`, an order of the old shape; then keep the bytes as is.

    `order` is the order of the result.
    """

    stored: Order
    order: Order


def plan_reshape(shape: tuple[int, ...], order: Order, new_shape: tuple[int, ...]) -> ReshapePlan:
    """How to reshape a stored tensor while moving as little as possible.

    A reshape splits and merges groups of neighbouring logical axes. Inside a group the axes must
    lie next to each other in logical order; the order of the groups in memory is free and is kept.
    """
    if prod(shape) == 0:
        return ReshapePlan(identity(len(shape)), identity(len(new_shape)))
    groups = _matching_groups(shape, new_shape)
    group_of = {axis: i for i, (old, _) in enumerate(groups) for axis in old}
    sequence = list(dict.fromkeys(group_of[axis] for axis in significant(shape, order)))
    stored = [axis for i in sequence for axis in groups[i][0]]
    result = [axis for i in sequence for axis in groups[i][1]]
    return ReshapePlan(_completed(shape, stored), _completed(new_shape, result))


def _completed(shape: tuple[int, ...], sequence: list[int]) -> Order:
    """The order with these significant axes; logical order if that is the same memory."""
    if sequence == sorted(sequence):
        return identity(len(shape))
    return (*(axis for axis, size in enumerate(shape) if size == 1), *sequence)


def _matching_groups(
    old_shape: tuple[int, ...], new_shape: tuple[int, ...]
) -> list[tuple[list[int], list[int]]]:
    """The smallest runs of old and new axes with equal products, ignoring axes of size 1."""
    old_axes = [a for a, size in enumerate(old_shape) if size != 1]
    new_axes = [a for a, size in enumerate(new_shape) if size != 1]
    groups = []
    while old_axes:
        old, new = [old_axes.pop(0)], [new_axes.pop(0)]
        while (a := prod(old_shape[i] for i in old)) != (b := prod(new_shape[i] for i in new)):
            if a < b:
                old.append(old_axes.pop(0))
            else:
                new.append(new_axes.pop(0))
        groups.append((old, new))
    return groups

"""Padding."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch.fx import Node

from qpc.backends.litert.exporter import Exporter, Refused, Rule
from qpc.backends.litert.stored import as_stored_point, stored_axes
from qpc.backends.litert.tables import Kind
from qpc.calls import aten
from qpc.ops.integer_convolution import IntConv2d
from qpc.ops.padding import Pad, zero_padding


def padded_image(to: Exporter, index: int, pads: Sequence[int], value: float | None = None) -> int:
    """An int8 image with more rows and columns: top, left, bottom, right.

    value: the stored integer to pad with; the zero point if not given.
    """
    if not any(pads):
        return index
    top, left, bottom, right = pads
    return _padded(to, index, [(0, 0), (top, bottom), (left, right), (0, 0)], value)


def _padded(to: Exporter, index: int, ends: Sequence[tuple[int, int]], value: float | None) -> int:
    of = to.stored(index)
    shape = [size + sum(more) for size, more in zip(of.shape, ends, strict=True)]
    inputs = [index, to.constant(np.array(ends, np.int32))]
    if value is None:
        return to.emit(Kind.PAD, inputs, to.like(index, shape))
    inputs.append(to.constant(np.array(value, of.dtype), of.grid))
    return to.emit(Kind.PADV2, inputs, to.like(index, shape))


def _pad(to: Exporter, node: Node) -> int:
    """`aten.constant_pad_nd`, unless the convolutions that read it do it."""
    view, rank = Pad(node), len(to.shape(node))
    integer = to.is_integer(node)
    if (
        integer
        and zero_padding(node) is not None
        and all(IntConv2d.matches(user) for user in node.users)
    ):
        return to.operand(view.input)
    if min(view.pad) < 0:
        raise Refused("it cuts")
    ends = [(0, 0)] * rank
    for i in range(len(view.pad) // 2):
        ends[-1 - i] = (view.pad[2 * i], view.pad[2 * i + 1])
    ends = [ends[axis] for axis in stored_axes(rank)]
    value: float = view.value
    if integer:
        value = as_stored_point(int(view.value), to.grid(node).dtype)
    return _padded(to, to.operand(view.input), ends, value)


RULES: dict[object, Rule] = {
    aten.constant_pad_nd.default: _pad,
}

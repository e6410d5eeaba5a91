"""Which tensors hold one number everywhere, and such tensors next to others, as padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.fx import GraphModule, Node

from qpc.calls import arguments
from qpc.capture.rules.call import Call, overloads, shape_of
from qpc.meta import attribute

aten = torch.ops.aten

_NUMBERS: dict[object, int] = dict.fromkeys(
    overloads(["zeros.default", "new_zeros.default", "zeros_like.default", "zero.default"]), 0
) | dict.fromkeys(overloads(["ones.default", "new_ones.default", "ones_like.default"]), 1)
"""What fills a tensor with a number, and the number."""
_GIVEN: dict[object, str] = dict.fromkeys(
    overloads(["full.default", "new_full.default", "full_like.default"]), "fill_value"
) | dict.fromkeys(overloads(["fill.Scalar", "fill.Tensor"]), "value")
"""What fills it with a number that is an argument, and the argument."""
_VIEWS = frozenset((aten.slice.Tensor, aten.select.int, aten.reshape.default, aten.expand.default))


def filled_with(gm: GraphModule, node: Node) -> int | float | None:
    """The number that a tensor is filled with, as far as one call shows; or None."""
    while node.target in _VIEWS:
        (node, *_) = node.all_input_nodes
    number: object = _NUMBERS.get(node.target)
    if (name := _GIVEN.get(node.target)) is not None:
        number = arguments(node)[name]
        if isinstance(number, Node):
            return _constant(gm, number)
    return number if isinstance(number, int | float) else None


def number_in(gm: GraphModule, node: Node) -> int | float | None:
    """As `filled_with`, or the only element of a constant."""
    return _constant(gm, node) if node.op == "get_attr" else filled_with(gm, node)


def _constant(gm: GraphModule, node: Node) -> int | float | None:
    if not str(node.target).startswith("_constants."):
        return None
    constant = attribute(gm, str(node.target))
    number = constant.item() if constant.numel() == 1 else None
    return number if isinstance(number, int | float) else None


@dataclass(frozen=True)
class Filled:
    """A part of an axis that holds one number."""

    number: int | float
    size: int


def joined(call: Call, parts: Sequence[Node | Filled], axis: int) -> Node:
    """Values side by side, with numbers between them as padding of one of the two."""
    made: list[Node] = []
    ahead: list[Filled] = []
    for part in parts:
        if isinstance(part, Node):
            for filled in reversed(ahead):
                part = _padded(call, part, axis, (filled.size, 0), filled.number)
            made.append(part)
            ahead = []
        elif made:
            made[-1] = _padded(call, made[-1], axis, (0, part.size), part.number)
        else:
            ahead.append(part)
    return made[0] if len(made) == 1 else call.emit(aten.cat.default, made, axis)


def _padded(call: Call, value: Node, axis: int, by: tuple[int, int], number: float) -> Node:
    """A value with a number before and after it, in one padding with the number that it has."""
    rank, by_axis = len(shape_of(value)), {axis: by}
    if value.target is aten.constant_pad_nd.default and arguments(value)["value"] == number:
        old = amounts(value, rank)
        if min(amount for pair in old.values() for amount in pair) >= 0:
            before, after = old.get(axis, (0, 0))
            by_axis = {**old, axis: (before + by[0], after + by[1])}
            value = value.all_input_nodes[0]
    pad = [n for d in range(rank - 1, min(by_axis) - 1, -1) for n in by_axis.get(d, (0, 0))]
    return call.emit(aten.constant_pad_nd.default, value, pad, float(number))


def amounts(pad: Node, rank: int) -> dict[int, tuple[int, int]]:
    """What a padding adds before and after, by axis."""
    given = arguments(pad)["pad"]
    return {rank - 1 - i // 2: (given[i], given[i + 1]) for i in range(0, len(given), 2)}

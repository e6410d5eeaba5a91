"""Which tensors hold one number everywhere."""

from __future__ import annotations

import torch
from torch.fx import GraphModule, Node

from qpc.calls import arguments
from qpc.capture.rules.call import overloads
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
        if isinstance(number, Node) and str(number.target).startswith("_constants."):
            number = attribute(gm, str(number.target)).item()
    return number if isinstance(number, int | float) else None

"""Choices between values: the larger or smaller, by a mask, or a number where a mask says so."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.fx import Node

from qpc.calls import arguments
from qpc.ops.arithmetic import elementwise, refuse_parameters
from qpc.registry import OpSpec, Quantization, Role, overloads

if TYPE_CHECKING:
    from qpc.conversion import Conversion


def _refuse_choice(node: Node) -> str | None:
    """Why a choice by a mask must stay in float."""
    mask = next(arguments(node)[name] for name in ("condition", "mask") if name in arguments(node))
    if any(n.op == "get_attr" for n in node.all_input_nodes if n is not mask):
        return "it chooses values of a parameter"
    value = arguments(node).get("value", 0)
    if abs(value) <= _LARGEST_FILL:
        return None
    return f"it fills with {value}, which no grid has room for beside other values"


def _convert_choice(conversion: Conversion) -> Node:
    """Of integers on the grid of the result."""
    given = arguments(conversion.node)
    if "mask" in given:
        grid = conversion.grid
        point = round(given["value"] / grid.scale) + grid.zero_point
        point = min(max(point, grid.lo), grid.hi)
        return conversion.again(conversion.brought_to_grid(given["self"]), given["mask"], point)
    pieces = [conversion.brought_to_grid(given[name]) for name in ("self", "other")]
    return conversion.again(given["condition"], *pieces)


def _convert_extreme(conversion: Conversion) -> Node:
    """The larger or smaller of two integers on the grid of the result."""
    given = arguments(conversion.node)
    pieces = [conversion.brought_to_grid(given[name]) for name in ("self", "other")]
    return conversion.again(*pieces)


_LARGEST_FILL = 1e4  # what stands for minus infinity is larger
_EXTREME = Quantization(
    Role.COMBINE, refuse_parameters, _convert_extreme, joins_grids=True, leaves_values=True
)
_CHOICE = Quantization(
    Role.COMBINE, _refuse_choice, _convert_choice, joins_grids=True, leaves_values=True
)
_PICKING = {"maximum minimum": _EXTREME, "where.self masked_fill.Scalar": _CHOICE}
SPECS = tuple(
    OpSpec(t, quantization=how, channels_together=elementwise, exact=True, picks=True)
    for names, how in _PICKING.items()
    for t in overloads(names)
)

"""Graphs on unsigned grids as the same on signed ones: data and zero points less 128."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch.fx import GraphModule, Node

from qpc.calls import arguments, aten, qpc_ops
from qpc.meta import attribute, update_info
from qpc.shapes import concrete_shapes
from qpc.types import TensorType

SHIFT = 128
_MOVED = (
    "zero_point",
    "input_zero_point",
    "output_zero_point",
    "a_zero_point",
    "b_zero_point",
    "other_zero_point",
    "lo",
    "hi",
)


def signed(gm: GraphModule) -> GraphModule:
    """The graph with int8 in place of uint8; its integer results are 128 less, its floats equal."""
    types = concrete_shapes(gm, 1)
    gm = copy.deepcopy(gm)
    for node, before in zip(list(gm.graph.nodes), types, strict=True):
        known = types[before]
        is_byte = isinstance(known, TensorType) and known.dtype is torch.uint8
        if node.op == "placeholder" and is_byte:
            update_info(node, dtype=torch.int8)
        elif node.op == "get_attr" and is_byte:
            tensor = attribute(gm, str(node.target))
            tensor.data = (tensor.to(torch.int16) - SHIFT).to(torch.int8)
        elif node.op == "call_function":
            _move_numbers(node, is_byte)
    gm.recompile()
    return gm


def _move_numbers(node: Node, is_byte: bool) -> None:
    """Arguments that are integers of the grid, or name its type."""
    given = arguments(node)
    changed: dict[str, Any] = {}
    if "qpc" in str(node.target):
        changed = {name: given[name] - SHIFT for name in _MOVED if name in given}
    if node.target is qpc_ops.quantize.default:
        changed["dtype"] = torch.int8
    if node.target is aten.constant_pad_nd.default and is_byte:
        changed["value"] = given["value"] - SHIFT
    for place, argument in enumerate(node.target._schema.arguments):  # type: ignore[union-attr]  # an overload
        if argument.name in changed and place < len(node.args):
            node.update_arg(place, changed[argument.name])
        elif argument.name in changed:
            node.update_kwarg(argument.name, changed[argument.name])

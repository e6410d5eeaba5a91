"""What one integer operator adds to the value that the float model has, by itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from qpc.calls import qpc_ops
from qpc.explanation.float_runs import depending
from qpc.meta import attribute, info, value_name
from qpc.quant.grid import QParams

QUANTIZE = qpc_ops.quantize.default
INTEGERS = (torch.int8, torch.uint8)
"""The dtypes of points on grids."""


@dataclass
class OneOperator:
    """One integer operator, and the part of the float graph that it stands for.

    places: the nodes of the float graph by the values that they hold; values: of all its nodes, by
    their names.
    """

    reference: GraphModule
    integer: GraphModule
    places: Mapping[str, Node]
    values: Mapping[str, Any]
    node: Node

    @property
    def value(self) -> str:
        """The float model's name for what it makes."""
        return str(value_name(self.node))

    def error(self) -> Tensor:
        """What it adds to the float value by itself."""
        exact: Tensor = self.values[self.places[self.value].name]
        if self.node.target is QUANTIZE:
            grid = _grid(self.node)
            return grid.dequantize(grid.quantize(exact)) - exact
        rounded: dict[str, Tensor] = {}
        made: Tensor = self._integers(self.node, rounded, top=True)
        exact = self._floats(rounded)
        real = _grid(self.node).dequantize(made) if info(self.node).dtype in INTEGERS else made
        return real.reshape(exact.shape) - exact

    def _integers(self, node: Node, rounded: dict[str, Tensor], *, top: bool = False) -> Any:
        """The value of a node of the integer graph, from float values rounded to its grids.

        rounded: receives those, by the names of the float values.
        """
        if node.op == "get_attr":
            return attribute(self.integer, str(node.target))
        name = value_name(node) or ""
        if (
            not top
            and info(node).qparams is not None
            and info(node).dtype in INTEGERS
            and name in self.places
            and name != self.value
        ):
            grid = _grid(node)
            points = grid.quantize(self.values[self.places[name].name])
            rounded[name] = grid.dequantize(points)
            return points.reshape(_shape(node, points))
        if node.op == "placeholder" or not callable(node.target):
            return self.values[node.name]
        args, kwargs = torch.fx.node.map_arg(
            (node.args, node.kwargs), lambda n: self._integers(n, rounded)
        )
        return node.target(*args, **kwargs)

    def _floats(self, rounded: Mapping[str, Tensor]) -> Any:
        """What the float model makes of the same rounded values."""
        made = self.places[self.value]
        known: dict[Node, Any] = {self.places[name]: value for name, value in rounded.items()}
        depends = depending(made, set(known))

        def of(node: Node) -> Any:
            if node not in known:
                known[node] = self._computed(node, of) if node in depends else self._plain(node)
            return known[node]

        return of(made)

    def _computed(self, node: Node, of: Callable[[Node], Any]) -> Any:
        args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), of)
        assert callable(node.target)
        return node.target(*args, **kwargs)

    def _plain(self, node: Node) -> Any:
        if node.op == "get_attr":
            return attribute(self.reference, str(node.target))
        return self.values[node.name]


def _grid(node: Node) -> QParams:
    grid = info(node).qparams
    assert grid is not None
    return grid


def _shape(node: Node, like: Tensor) -> Sequence[int]:
    """The shape of an integer value, which may have one axis more than the float one."""
    shape = info(node).shape
    if shape is None or len(shape) == like.dim():
        return like.shape
    return [size if isinstance(size, int) else -1 for size in shape]

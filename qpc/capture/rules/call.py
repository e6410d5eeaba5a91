"""What every rule works on: a call to be replaced, and the means to build what replaces it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeAlias

import torch
from torch._ops import OpOverload
from torch.fx import GraphModule, Node
from torch.fx.node import Argument

from qpc.calls import arguments
from qpc.meta import info, inherit
from qpc.shapes import infer_node
from qpc.types import BatchDim, Shape


class Call:
    """One call being rewritten.

    args: its arguments by name, defaults included.
    """

    def __init__(self, gm: GraphModule, node: Node) -> None:
        self.gm, self.node, self.args = gm, node, arguments(node)

    def emit(self, target: OpOverload, *args: Argument, **kwargs: Argument) -> Node:
        """Insert a call before this one, for the same line of the user's model."""
        with self.gm.graph.inserting_before(self.node):
            made = self.gm.graph.call_function(target, args, kwargs)
        inherit(made, self.node, origin="")
        infer_node(self.gm, made)
        return made

    @property
    def target(self) -> OpOverload:
        """The operator."""
        assert isinstance(self.node.target, OpOverload)
        return self.node.target

    @property
    def shape(self) -> Shape:
        """The shape of the result."""
        return shape_of(self.node)

    @property
    def rank(self) -> int:
        """The number of axes of the input."""
        return len(shape_of(self.source()))

    def source(self, name: str = "self") -> Node:
        """The tensor that is given as this argument."""
        source: Node = self.args[name]
        return source


Rule: TypeAlias = Callable[[Call], "Node | list[Node] | None"]
"""Returns the replacement (a list for a call of several results), or None to leave the call."""


def shape_of(node: Node) -> Shape:
    """The shape that a node's info carries."""
    shape = info(node).shape
    assert shape is not None, f"{node.name} has no shape"
    return shape


def reshape_sizes(shape: Shape) -> list[int] | None:
    """A shape as a reshape takes it: -1 for the axis that grows with the batch; None if two do."""
    if sum(isinstance(d, BatchDim) for d in shape) > 1:
        return None
    return [-1 if isinstance(d, BatchDim) else d for d in shape]


def table(*groups: tuple[Rule, str]) -> dict[OpOverload, Rule]:
    """Rules by operator; each group is a rule and the names of overloads of ATen, with blanks."""
    return {overload: rule for rule, names in groups for overload in overloads(names.split())}


def overloads(names: Iterable[str]) -> list[OpOverload]:
    """Overloads of ATen by names such as `view.default`."""
    split = [name.partition(".") for name in names]
    return [getattr(getattr(torch.ops.aten, packet), overload) for packet, _, overload in split]

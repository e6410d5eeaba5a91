"""Graphs on unsigned grids as graphs on signed ones, and the other way round, exactly.

Both types stand for the same reals: data, zero points, bounds, padding and tables differ by 128. A
target multiplies one of them, and takes graphs of either. Inputs and outputs of the graph keep
their types, and so does what operators read and make of which it is not known that they may be
given other integers; a table stands between these and what was moved.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.fx import Graph, GraphModule, Node

from qpc.backends.common.traits import TraitTable, traits_of
from qpc.calls import arguments, aten, is_shape_arithmetic, qpc_ops, set_arguments
from qpc.library import NAMESPACE
from qpc.meta import attribute, inherit, update_info
from qpc.registry import spec_of
from qpc.shapes import noted_shapes
from qpc.types import Concrete, TensorType

ORIGIN = "activation-type"
_OTHER = {torch.int8: torch.uint8, torch.uint8: torch.int8}
_MOVED = 128  # from an integer of a signed grid to that of an unsigned one
_VALUES = ("q", "a", "b", "other", "table")
"""What QPC's integer operators call arguments that are on grids; others are weights."""


def with_activations(
    gm: GraphModule, batch: int, dtype: torch.dtype, traits: TraitTable
) -> GraphModule:
    """`gm` with grids of integers of `dtype`, int8 or uint8, in place of those of the other type.

    A new graph with the same inputs and outputs, or `gm` itself if there is nothing to change.
    """
    types = noted_shapes(gm, batch)
    other = _OTHER[dtype]
    values = (types[node] for node in gm.graph.nodes if node.op != "get_attr")  # not weights
    if not any(isinstance(found, TensorType) and found.dtype is other for found in values):
        return gm
    return _Change(gm, types, dtype, traits).run()


class _Change:
    """One new graph.

    `_kept` and `_moved` hold the nodes in it for those of the old one: with the integers they had,
    and with those of the wanted type. A value of another type has only the first.
    """

    def __init__(
        self,
        gm: GraphModule,
        types: Mapping[Node, Concrete],
        dtype: torch.dtype,
        traits: TraitTable,
    ) -> None:
        self._gm, self._types, self._traits = gm, types, traits
        self._dtype, self._other = dtype, _OTHER[dtype]
        self._by = -_MOVED if dtype is torch.int8 else _MOVED
        self._graph = Graph()
        self._tensors: dict[str, Tensor] = {}
        self._kept: dict[Node, Node] = {}
        self._moved: dict[Node, Node] = {}

    def run(self) -> GraphModule:
        for node in self._gm.graph.nodes:
            if self._follows(node):
                self._move(node)
            else:
                self._kept[node] = self._copied(node)
        return GraphModule(self._tensors, self._graph)

    def _follows(self, node: Node) -> bool:
        """Whether a call has the same meaning for integers of the other type."""
        if node.op != "call_function":
            return False
        values = self._values(node)
        changes = [n for n in (node, *values) if self._is_other(n)]
        if not changes:
            return False
        if traits_of(node, self._traits).moves:
            value = arguments(node).get("value", 0) if node.target is _PAD else 0
            fits = isinstance(value, int) and _least(self._other) <= value <= _greatest(self._other)
            computed = any(n.op != "get_attr" for n in values)
            return fits and computed and len(changes) == 1 + len(values)
        spec = spec_of(node)
        target = node.target
        ours = isinstance(target, OpOverload) and target.namespace == NAMESPACE
        return ours and spec is not None and spec.check is not None

    def _values(self, node: Node) -> list[Node]:
        """What a call reads that is on a grid, if it is one of the operators that follow."""
        if traits_of(node, self._traits).moves:
            return [n for n in node.all_input_nodes if isinstance(self._types[n], TensorType)]
        given = arguments(node) if isinstance(node.target, OpOverload) else {}
        return [n for name in _VALUES if isinstance(n := given.get(name), Node)]

    def _is_other(self, node: Node) -> bool:
        found = self._types[node]
        return isinstance(found, TensorType) and found.dtype is self._other

    def _copied(self, node: Node) -> Node:
        """The same call of the same integers."""
        if node.op == "get_attr":
            self._tensors[str(node.target)] = attribute(self._gm, str(node.target))
        if is_shape_arithmetic(node):  # what the integers are makes no difference
            return self._graph.node_copy(node, self._either)
        return self._graph.node_copy(node, self._with_kept)

    def _move(self, node: Node) -> None:
        """The same call of integers of the wanted type."""
        values = set(self._values(node))

        def new(source: Node) -> Node:
            moves = source in values and self._is_other(source)
            return self._with_moved(source) if moves else self._either(source)

        made = self._graph.node_copy(node, new)
        set_arguments(made, **self._changed(node))
        if not self._is_other(node):
            self._kept[node] = made
            return
        update_info(made, dtype=self._dtype)
        self._moved[node] = made

    def _changed(self, node: Node) -> dict[str, Any]:
        """Arguments that are integers of the grid, or name its type."""
        given = arguments(node)
        if node.target is qpc_ops.lookup.default:
            return {}
        if node.target is _PAD:
            return {"value": given.get("value", 0) + self._by}
        if traits_of(node, self._traits).moves:
            return {}
        grid = [n for n in given if n.endswith("zero_point") or n in ("lo", "hi")]
        changed: dict[str, Any] = {name: given[name] + self._by for name in grid}
        if node.target is qpc_ops.quantize.default:
            changed["dtype"] = self._dtype
        return changed

    def _either(self, node: Node) -> Node:
        return self._kept.get(node) or self._moved[node]

    def _with_kept(self, node: Node) -> Node:
        if node not in self._kept:
            self._kept[node] = self._retyped(self._moved[node], node, self._other)
        return self._kept[node]

    def _with_moved(self, node: Node) -> Node:
        if node not in self._moved:
            if node.op == "get_attr":
                wide = attribute(self._gm, str(node.target)).detach().to(torch.int16)
                self._moved[node] = self._constant((wide + self._by).to(self._dtype), node)
            else:
                self._moved[node] = self._retyped(self._kept[node], node, self._dtype)
        return self._moved[node]

    def _retyped(self, made: Node, node: Node, dtype: torch.dtype) -> Node:
        """The value of `node` with the integers of another type, by a table."""
        table = self._constant(torch.arange(_least(dtype), _greatest(dtype) + 1, dtype=dtype), node)
        found = self._graph.call_function(qpc_ops.lookup.default, (made, table))
        self._describe(found, node, self._types[node], dtype)
        return found

    def _constant(self, tensor: Tensor, node: Node) -> Node:
        name = f"_{ORIGIN.replace('-', '_')}_{len(self._tensors)}"
        self._tensors[name] = tensor
        made = self._graph.get_attr(name)
        self._describe(made, node, TensorType(tuple(tensor.shape), tensor.dtype), tensor.dtype)
        return made

    def _describe(self, made: Node, node: Node, found: Concrete, dtype: torch.dtype) -> None:
        inherit(made, node, origin=ORIGIN)
        assert isinstance(found, TensorType)
        update_info(made, shape=found.shape, dtype=dtype)


_PAD = aten.constant_pad_nd.default


def _least(dtype: torch.dtype) -> int:
    return torch.iinfo(dtype).min


def _greatest(dtype: torch.dtype) -> int:
    return torch.iinfo(dtype).max

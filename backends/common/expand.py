"""Calls of operators that others are made of, replaced by those before a graph is compiled."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from torch import Tensor
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_arg

from qpc.backends.common.decompose import Decomposition, decomposed, evaluate, is_constant
from qpc.errors import BackendError, QPCError
from qpc.meta import attribute, inherit, update_info
from qpc.shapes import noted_shapes
from qpc.types import Concrete, TensorType, dtype_name

ORIGIN = "expand"

Functions: TypeAlias = Mapping[Any, Callable[..., Any]]
"""Functions that compute what operators compute, by operator."""


def expanded(gm: GraphModule, batch: int, functions: Functions) -> GraphModule:
    """`gm` at one batch size, with other operators in place of those that have a function.

    A new graph of the same tensors, or `gm` itself if it calls none of them. Raises BackendError
    for a function that fails, or whose result is of another type than the operator's.
    """
    if not any(node.target in functions for node in gm.graph.nodes):
        return gm
    return _Expansion(gm, noted_shapes(gm, batch), functions).run()


class _Expansion:
    """One new graph; `_made` holds the nodes in it, or tuples of them, for those of the old one."""

    def __init__(
        self, gm: GraphModule, types: Mapping[Node, Concrete], functions: Functions
    ) -> None:
        self._gm, self._types, self._functions = gm, types, functions
        self._graph = Graph()
        self._tensors: dict[str, Tensor] = {}
        self._made: dict[Node, Any] = {}

    def run(self) -> GraphModule:
        for node in self._gm.graph.nodes:
            self._made[node] = self._converted(node)
        return GraphModule(self._tensors, self._graph)

    def _converted(self, node: Node) -> Any:
        if node.target in self._functions:
            return self._spliced(node, self._decomposition(node))
        source = next(iter(node.all_input_nodes), None)
        if node.target is operator.getitem and source and not isinstance(self._made[source], Node):
            return self._made[source][node.args[1]]
        if node.op == "get_attr":
            self._tensors[str(node.target)] = attribute(self._gm, str(node.target))
        return self._graph.node_copy(node, self._made.__getitem__)

    def _decomposition(self, node: Node) -> Decomposition:
        types = {n: self._types[n] for n in node.all_input_nodes}
        numbers = {n: known for n, known in types.items() if isinstance(known, int | float)}
        others = {k: v for k, v in self._functions.items() if k is not node.target}
        function = self._functions[node.target]
        try:
            found = decomposed(node, function, numbers, self._types.__getitem__, others)
        except QPCError:
            raise
        except Exception as e:  # whatever comes up in the code of others
            raise BackendError(
                f"the decomposition of operator {node.target} failed with {type(e).__name__}: {e}",
                node=node,
            ) from e
        if found is None:
            raise BackendError(
                f"operator {node.target} cannot be decomposed: an argument is not one tensor",
                node=node,
            )
        made = _types(found.result, found.type_of)
        if made != self._types[node]:
            raise BackendError(
                f"the decomposition of operator {node.target} returns {_shown(made)}, the operator"
                f" {_shown(self._types[node])}",
                node=node,
                fix="return what the operator returns, in shape and dtype",
            )
        return found

    def _spliced(self, node: Node, found: Decomposition) -> Any:
        """The calls of a decomposition in the new graph; what is constant is computed now."""
        made: dict[Node, Any] = {}
        known: dict[Node, Any] = dict(found.constants)
        for inner, source in zip(found.inputs, found.sources, strict=True):
            made[inner] = self._made[source]
            if source.op == "get_attr":
                known[inner] = attribute(self._gm, str(source.target)).detach()

        def new(inner: Node) -> Any:
            if inner not in made:
                made[inner] = self._constant(known[inner], node)
            return made[inner]

        for inner in found.calls:
            result = evaluate(inner, known) if is_constant(inner, known) else None
            if isinstance(result, Tensor | int | float):
                known[inner] = result
            else:
                args, kwargs = map_arg((inner.args, inner.kwargs), new)
                made[inner] = self._graph.create_node("call_function", inner.target, args, kwargs)
                self._describe(made[inner], node, found.type_of(inner))
        return map_arg(found.result, new)

    def _constant(self, value: Any, node: Node) -> Any:
        if not isinstance(value, Tensor):
            return value
        name = f"_{ORIGIN}_{len(self._tensors)}"
        self._tensors[name] = value
        made = self._graph.get_attr(name)
        self._describe(made, node, TensorType(tuple(value.shape), value.dtype))
        return made

    def _describe(self, made: Node, node: Node, found: Concrete) -> None:
        inherit(made, node, origin=ORIGIN)
        if isinstance(found, TensorType):
            update_info(made, shape=found.shape, dtype=found.dtype)


def _types(result: Any, type_of: Callable[[Node], Concrete]) -> Concrete:
    if isinstance(result, Node):
        return type_of(result)
    return tuple(_types(r, type_of) for r in result) if isinstance(result, tuple | list) else None


def _shown(found: Concrete) -> str:
    if isinstance(found, TensorType):
        return f"{dtype_name(found.dtype)}[{', '.join(map(str, found.shape))}]"
    if isinstance(found, tuple):
        return f"({', '.join(map(_shown, found))})"
    return "something that is no tensor"

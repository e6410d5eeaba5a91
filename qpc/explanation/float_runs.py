"""Runs of graphs: all values, and what comes of a float graph when one of them changes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from qpc.meta import attribute, info, value_name


def output_of(gm: GraphModule) -> Node:
    """The node that returns."""
    (found,) = gm.graph.find_nodes(op="output")
    assert isinstance(found, Node)
    return found


class _Keeping(Interpreter):
    """Keeps every value by name."""

    def __init__(self, gm: GraphModule) -> None:
        super().__init__(gm, garbage_collect_values=False)
        self.kept: dict[str, Any] = {}

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        if n.op != "get_attr":
            self.kept[n.name] = value
        return value


def all_values(gm: GraphModule, inputs: Sequence[Tensor]) -> dict[str, Any]:
    """Every value of a graph by the name of its node."""
    run = _Keeping(gm)
    run.run(*inputs)
    return run.kept


class _Watched(Interpreter):
    """Shows the reals that integers stand for, each value when it is there."""

    def __init__(self, gm: GraphModule, see: Callable[[str, Tensor], None]) -> None:
        super().__init__(gm)
        self._see = see
        self._names = {node: name for name, node in nodes_of_values(gm).items()}

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        if n.op == "call_function" and n in self._names and isinstance(value, Tensor):
            grid = None if value.is_floating_point() else info(n).qparams
            self._see(self._names[n], value if grid is None else grid.dequantize(value))
        return value


def watched(
    gm: GraphModule, inputs: Sequence[Tensor], see: Callable[[str, Tensor], None]
) -> object:
    """The outputs of a graph. see: is given each value by the traced model's name, as reals."""
    return _Watched(gm, see).run(*inputs)


def nodes_of_values(gm: GraphModule) -> dict[str, Node]:
    """The last node that holds each value, by the traced model's name for it."""
    return {
        name: node
        for node in gm.graph.nodes
        if node.op not in ("get_attr", "output") and (name := value_name(node)) is not None
    }


def affected(gm: GraphModule, source: Node) -> tuple[Node, ...]:
    """The nodes that depend on one, in order."""
    found = {source}
    ordered = []
    for node in gm.graph.nodes:
        if not found.isdisjoint(node.all_input_nodes):
            found.add(node)
            ordered.append(node)
    return tuple(ordered)


def run_rest(
    gm: GraphModule,
    nodes: Sequence[Node],
    values: Mapping[str, Any],
    changed: Mapping[Node, Tensor],
) -> Any:
    """The outputs of a float graph with some values changed; nodes: those that depend on them.

    values: of all nodes, by their names. What nobody reads any more is freed on the way.
    """
    new: dict[Node, Any] = dict(changed)
    last = {source: node for node in (*changed, *nodes) for source in node.all_input_nodes}
    done: dict[Node, list[Node]] = {}
    for source, node in last.items():
        done.setdefault(node, []).append(source)

    def of(node: Node) -> Any:
        if node.op == "get_attr":
            return attribute(gm, str(node.target))
        return new[node] if node in new else values[node.name]

    for node in nodes:
        if node.op == "output":
            return torch.fx.node.map_arg(node.args[0], of)
        args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), of)
        assert callable(node.target)
        new[node] = node.target(*args, **kwargs)
        for source in done.get(node, ()):
            new.pop(source, None)
    return values[output_of(gm).name]


def depending(target: Node, sources: set[Node]) -> set[Node]:
    """The nodes on the way from some values to a target, which is one of them."""
    found: dict[Node, bool] = {}
    waiting = [target]
    while waiting:
        node = waiting[-1]
        if node in found:
            waiting.pop()
            continue
        missing = [n for n in node.all_input_nodes if n not in found and n not in sources]
        if missing:
            waiting += missing
            continue
        found[node] = any(n in sources or found.get(n, False) for n in node.all_input_nodes)
        waiting.pop()
    found[target] = True
    return {node for node, depends in found.items() if depends}

"""Where values come from: from parameters, from the model's inputs, or from sizes alone."""

from __future__ import annotations

import operator

import torch
from torch.fx import GraphModule, Node

from qpc.calls import aten
from qpc.meta import info
from qpc.registry import spec_of


def activations(node: Node) -> list[Node]:
    """The inputs of a call that are no parameters or buffers."""
    return [n for n in node.all_input_nodes if n.op != "get_attr"]


def bytes_behind(value: Node) -> Node | None:
    """The uint8 input of the model that a value is, as float32; None for any other value."""
    if value.target is not aten.to.dtype or info(value).dtype is not torch.float32:
        return None
    source = value.all_input_nodes[0]
    plain = source.op == "placeholder" and info(source).dtype is torch.uint8
    return source if plain else None


def maker(value: Node) -> Node:
    """The operator that made a value, also where it was picked from several results."""
    return value.all_input_nodes[0] if value.target is operator.getitem else value


def multiplies_by_parameter(node: Node) -> bool:
    """Whether a call is a matrix product of a value and a parameter, as `x @ self.weight` is."""
    spec = spec_of(node)
    if spec is None or not spec.multiplies or not activations(node):
        return False
    constants = [n for n in node.all_input_nodes if n.op == "get_attr"]
    return any(len(info(n).shape or ()) > 1 for n in constants)


def of_parameters(value: Node) -> bool:
    """Whether a value is a parameter or buffer, or made of these and no input of the model."""
    pending, seen = [value], {value}
    while pending:
        node = pending.pop()
        if node.op == "placeholder":
            return False
        new = [source for source in node.all_input_nodes if source not in seen]
        seen.update(new)
        pending += new
    return any(node.op == "get_attr" for node in seen)


def computed(part: Node) -> str:
    """In words for reports: how a weight or bias that is no parameter is made, and what helps."""
    if part.op == "placeholder":
        return f"{part.name} is an input of the model"
    behind = _behind(part)
    for node in behind:
        if node.op == "placeholder":
            return f"{part.name} is computed from the input {node.name}"
    calls = [node for node in behind if node.op != "get_attr"]
    if all(call.target in _MOVES for call in calls):
        whole = next(node for node in behind if node.op == "get_attr")
        return f"{part.name} is a piece of {whole.target}, not a parameter of its own"
    return (
        f"{part.name} is computed, not a parameter; run qpc.passes.FoldWeights() first to make it "
        "one"
    )


def reported_calls(gm: GraphModule) -> set[Node]:
    """Calls worth reporting on: those that make float values from the model's inputs.

    Not sizes and what is made of sizes alone, nor what is computed from parameters alone, nor the
    picking of one result of several.
    """
    carrying: set[Node] = set()
    for node in gm.graph.nodes:
        fed = node.op == "placeholder" or any(n in carrying for n in node.all_input_nodes)
        if fed and any(info(value).dtype is not None for value in _results(node)):
            carrying.add(node)
    return {
        n
        for n in carrying
        if n.target is not operator.getitem
        and any(
            (dtype := info(v).dtype) and (dtype.is_floating_point or dtype.is_complex)
            for v in _results(n)
        )
    }


_MOVES = frozenset({aten.slice.Tensor, aten.permute.default, aten.select.int, aten.reshape.default})


def _behind(part: Node) -> list[Node]:
    """All nodes that a value depends on, and itself, in the order of the graph."""
    needed, pending = {part}, [part]
    while pending:
        new = set(pending.pop().all_input_nodes) - needed
        needed |= new
        pending += new
    return [node for node in part.graph.nodes if node in needed]


def _results(node: Node) -> list[Node]:
    """The nodes that hold the tensors that a call makes: itself, or those that pick them."""
    picked = [user for user in node.users if user.target is operator.getitem]
    return [node, *picked] if info(node).dtype is None else [node]

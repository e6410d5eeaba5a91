"""Fold weights that are computed from parameters alone into parameters.

Before:  W -> sub(mean) -> div(deviation) -> the weight of conv2d
After:   the weight of conv2d is a parameter, the value that was computed
Keeps:   the output, bit for bit
Leaves:  weights that depend on an input, that are random, or that are fake-quantized inside; unless
         asked for, pieces and transposes of a parameter, which pruning sees through
Cost:    one evaluation of the operators that are folded

Weight standardisation, weight normalisation, spectral normalisation and other reparametrisations
end here: layers then can be pruned, quantized and compiled like any other, and train as plain ones.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from qpc.base import Pass, PassContext
from qpc.calls import arguments, aten
from qpc.edit import Editor
from qpc.facts import CORE_FORM
from qpc.layers import weighted
from qpc.meta import attribute, info, label
from qpc.registry import Through, seen_through
from qpc.rewrite import Rule, apply_rules
from qpc.settings import require_kind


@dataclass(frozen=True)
class _Found:
    """A weight or bias that is computed, its layer, and the calls that compute it, in order."""

    part: Node
    layer: Node
    calls: tuple[Node, ...]


@dataclass(frozen=True)
class ComputedWeight(Rule[_Found]):
    """A layer whose weight or bias is no parameter.

    pieces: and not just some rows, or a transpose, of one.
    """

    pieces: bool = False

    def match(self, gm: GraphModule, node: Node) -> _Found | None:
        layer = weighted(node)
        if layer is None:
            return None
        for part in (layer.weight, layer.bias):
            while part is not None and seen_through(part) is Through.WHOLE:
                part = part.all_input_nodes[0]
            if part is None or part.op == "get_attr":
                continue
            if not _is_seen_through(calls := _behind(part)) or self.pieces:
                return _Found(part, node, calls)
        return None

    def refuse(self, gm: GraphModule, found: _Found) -> str | None:
        for call in found.calls:
            if call.op == "placeholder":
                return f"{found.part.name} depends on the input {call.name}"
            if call.op != "get_attr" and not _is_foldable(call):
                return f"{found.part.name} goes through {label(call)}, which cannot be folded"
        return None

    def replace(self, editor: Editor, found: _Found) -> str:
        value = _evaluated(editor.gm, found.calls)[found.part]
        folded = _stored(editor, found.part, value)
        editor.replace(found.part, folded)
        return f"computed once, for {label(found.layer)}"


@dataclass(frozen=True)
class FoldWeights(Pass, name="fold-weights", requires={CORE_FORM}):
    """Make a parameter of every weight and bias that no input changes.

    operands: and of everything else that is computed from parameters alone and meets a value of the
    model, such as a learned scale in another shape, or weights of a mixture behind a softmax, and
    of weights that are a piece or the transpose of a parameter, as in attention over two sequences.
    """

    operands: bool = False

    def __post_init__(self) -> None:
        require_kind("operands", self.operands, bool, "True or False")

    def apply(self, gm: GraphModule, ctx: PassContext) -> bool:
        changed = apply_rules((ComputedWeight(self.operands),), self, gm, ctx)
        return (self.operands and _fold_operands(Editor(gm, self.name), ctx)) or changed


def _fold_operands(editor: Editor, ctx: PassContext) -> bool:
    """Make constants of what parameters decide and any operator but a layer, as its own, reads."""
    constant = _constants(editor.gm)
    values: dict[Node, Tensor] = {}
    for node in constant:
        readers = [user for user in node.users if user not in constant and not _is_own(user, node)]
        if not readers or node.op == "get_attr" or info(node).dtype is None:
            continue
        values = values or _evaluated(editor.gm, tuple(constant))
        folded = _stored(editor, node, values[node])
        for reader in readers:
            reader.replace_input_with(node, folded)
        ctx.change(node, "computed once")
    for node in reversed(constant):  # a dropout is left by what clears up: it is random in training
        if not node.users and node.op == "call_function":
            editor.gm.graph.erase_node(node)
    editor.drop_unused()
    return bool(values)


def _constants(gm: GraphModule) -> dict[Node, None]:
    """Parameters, buffers, and calls of these alone that always give the same; in order."""
    found: dict[Node, None] = {}
    for node in gm.graph.nodes:
        known = node.all_input_nodes and all(source in found for source in node.all_input_nodes)
        if node.op == "get_attr" or (known and node.op != "output" and _is_foldable(node)):
            found[node] = None
    return found


def _is_own(layer: Node, value: Node) -> bool:
    """Whether a layer reads a value as its weight or bias."""
    view = weighted(layer)
    return view is not None and value in (view.weight, view.bias)


def _stored(editor: Editor, node: Node, value: Tensor) -> Node:
    """What a call made, as a parameter of its own; truth values and integers as a buffer."""
    sources = [call for call in _behind(node) if call.op == "get_attr"]
    name = editor.free_name(f"{sources[0].target}_folded")
    trains = value.is_floating_point()
    store = editor.parameter if trains else editor.buffer
    return store(name, value.detach().clone().contiguous(), before=node)


def _behind(part: Node) -> tuple[Node, ...]:
    """All nodes that a value depends on, and itself, each after its inputs."""
    needed, pending = {part}, [part]
    while pending:
        for source in pending.pop().all_input_nodes:
            if source not in needed:
                needed.add(source)
                pending.append(source)
    return tuple(node for node in part.graph.nodes if node in needed)


def _is_seen_through(calls: tuple[Node, ...]) -> bool:
    return all(
        call.op == "get_attr" or seen_through(call) in (Through.ROWS, Through.PERMUTED)
        for call in calls
    )


def _is_foldable(call: Node) -> bool:
    """Whether a call always gives the same value, and no other pass counts on it."""
    if call.target is aten.dropout.default:
        return not arguments(call)["train"]
    return (
        isinstance(call.target, OpOverload)
        and call.target.namespace == "aten"
        and torch.Tag.nondeterministic_seeded not in call.target.tags
    )


def _evaluated(gm: GraphModule, calls: tuple[Node, ...]) -> dict[Node, Tensor]:
    values: dict[Node, Tensor] = {}
    with torch.no_grad():
        for call in calls:
            if call.op == "get_attr":
                values[call] = attribute(gm, str(call.target))
            else:
                args, kwargs = map_arg((call.args, call.kwargs), values.__getitem__)
                assert callable(call.target)
                values[call] = call.target(*args, **kwargs)
    return values

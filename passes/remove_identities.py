"""Remove operators that return their input at inference.

Before:  x -> dropout(p, train=False) -> y;  x -> x * 1 -> y;  x + 0;  x / 1;  pad by nothing;
         permute by (0, 1, 2, ...);  reshape to the same shape;  1 x 1 max-pool of stride 1
After:   x -> y
Keeps:   the output, bit for bit
Leaves:  dropout in training mode
Cost:    one walk over the graph
"""

from __future__ import annotations

from dataclasses import dataclass

from torch.fx import GraphModule, Node

from qpc.base import Pass, PassContext
from qpc.calls import arguments, aten
from qpc.edit import Editor
from qpc.facts import CORE_FORM
from qpc.meta import info
from qpc.ops.movement import Dropout
from qpc.ops.padding import Pad
from qpc.ops.pooling import MaxPool2d
from qpc.rewrite import Rule, apply_rules

_NEUTRAL = {
    aten.add.Tensor: 0,
    aten.sub.Tensor: 0,
    aten.mul.Tensor: 1,
    aten.div.Tensor: 1,
}


@dataclass(frozen=True)
class Identity(Rule[Node]):
    """A call that returns its first input."""

    def match(self, gm: GraphModule, node: Node) -> Node | None:
        if node.op != "call_function" or not node.args or not isinstance(node.args[0], Node):
            return None
        return node if _is_identity(node) or _is_trained_dropout(node) else None

    def refuse(self, gm: GraphModule, found: Node) -> str | None:
        return "dropout is in training mode" if _is_trained_dropout(found) else None

    def replace(self, editor: Editor, found: Node) -> str:
        source = found.args[0]
        assert isinstance(source, Node)
        editor.replace(found, source)
        return f"was the identity of {source.name}"


@dataclass(frozen=True)
class RemoveIdentities(Pass, name="remove-identities", requires={CORE_FORM}):
    """Remove dropout and other operators that do nothing at inference."""

    def apply(self, gm: GraphModule, ctx: PassContext) -> bool:
        return apply_rules((Identity(),), self, gm, ctx)


def _is_trained_dropout(node: Node) -> bool:
    dropout = Dropout.of(node)
    return dropout is not None and dropout.train and dropout.p > 0


def _is_identity(node: Node) -> bool:
    source = node.args[0]
    assert isinstance(source, Node)
    if Dropout.matches(node):
        return not _is_trained_dropout(node)
    if node.target in _NEUTRAL:
        other = arguments(node)["other"]
        neutral = isinstance(other, int | float) and other == _NEUTRAL[node.target]
        return neutral and info(source).dtype == info(node).dtype
    if node.target in (aten.reshape.default, aten.expand.default):
        return info(source).shape is not None and info(source).shape == info(node).shape
    if node.target is aten.permute.default:
        dims = list(arguments(node)["dims"])
        return dims == list(range(len(dims)))
    if pad := Pad.of(node):
        return not any(pad.pad)
    if pool := MaxPool2d.of(node):
        return (pool.kernel_size, pool.stride, pool.padding) == ((1, 1), (1, 1), (0, 0))
    return False

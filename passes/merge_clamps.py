"""Let the operator that makes a value clamp it, instead of a separate ReLU or ReLU6.

Before:  qpc::conv2d(..., lo=0, hi=255) -> qpc::clamp(3, 200) -> y
After:   qpc::conv2d(..., lo=3, hi=200) -> y
Keeps:   the output, bit for bit
Leaves:  a clamp whose producer is read elsewhere too, or does not end with a clamp of its own
Cost:    one walk over the graph

Max-pooling, reshape, permute and slices between the two do not matter, because clamping and moving
commute.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch.fx import GraphModule, Node

from qpc.base import Pass, PassContext
from qpc.calls import aten, qpc_ops
from qpc.edit import Editor
from qpc.facts import CORE_FORM, INTEGER
from qpc.meta import label, update_info, value_name
from qpc.ops.clamp import Clamping, IntClamp
from qpc.rewrite import Rule, apply_rules

_MOVES = frozenset(
    {
        qpc_ops.max_pool2d.default,
        aten.reshape.default,
        aten.permute.default,
        aten.slice.Tensor,
        aten.select.int,
    }
)


@dataclass(frozen=True)
class _Found:
    clamp: IntClamp
    producer: Node


@dataclass(frozen=True)
class ProducerThenClamp(Rule[_Found]):
    """A clamp, and the operator that makes its values."""

    def match(self, gm: GraphModule, node: Node) -> _Found | None:
        clamp = IntClamp.of(node)
        if clamp is None:
            return None
        producer = clamp.input
        while producer.target in _MOVES and len(producer.users) == 1:
            producer = producer.all_input_nodes[0]
        return _Found(clamp, producer)

    def refuse(self, gm: GraphModule, found: _Found) -> str | None:
        if len(found.producer.users) > 1:
            return f"{label(found.producer)} is read by {len(found.producer.users)} nodes"
        if not Clamping.matches(found.producer):
            return f"{label(found.producer)} does not clamp"
        return None

    def replace(self, editor: Editor, found: _Found) -> str:
        producer, clamp = Clamping(found.producer), found.clamp
        # clamp(clamp(x, a, b), c, d) = clamp(x, lo, hi) also where [a, b] and [c, d] do not meet
        lo = min(max(producer.lo, clamp.lo), clamp.hi)
        hi = max(min(producer.hi, clamp.hi), clamp.lo)
        producer.lo, producer.hi = lo, hi
        text = f"merged into {label(producer.node)}"
        update_info(producer.node, value="")
        update_info(clamp.input, value=value_name(clamp.node) or "")
        editor.replace(clamp.node, clamp.input)
        return text


@dataclass(frozen=True)
class MergeClamps(Pass, name="merge-clamps", requires={CORE_FORM, INTEGER}):
    """Merge integer clamps, which ReLU and ReLU6 have become, into what makes their input."""

    def apply(self, gm: GraphModule, ctx: PassContext) -> bool:
        return apply_rules((ProducerThenClamp(),), self, gm, ctx)

"""Let the operator that makes a value clamp it, instead of a separate ReLU or ReLU6.

Before:  qpc::conv2d(..., lo=0, hi=255) -> qpc::clamp(3, 200) -> y
After:   qpc::conv2d(..., lo=3, hi=200) -> y
Keeps:   the output, bit for bit
Leaves:  a clamp whose producer is read elsewhere too, or does not end with a clamp of its own
Cost:    one walk over the graph

Max-pooling, reshape, permute and slices between the two do not matter, because clamping and moving
commute. ReLU and other clamps of float32 values that an integer operator ends in become its bounds
`least` and `greatest` in the same way.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from torch.fx import GraphModule, Node

from qpc.base import Pass, PassContext
from qpc.calls import aten, qpc_ops
from qpc.edit import Editor
from qpc.facts import CORE_FORM, INTEGER
from qpc.meta import label, update_info, value_name
from qpc.ops.clamp import Bounded, Clamp, Clamping, IntClamp, Relu
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


_V = TypeVar("_V", IntClamp, "Relu | Clamp")


@dataclass(frozen=True)
class _Found(Generic[_V]):
    clamp: _V
    producer: Node


def _found(clamp: _V) -> _Found[_V]:
    """A clamp, and the operator that makes its values."""
    producer = clamp.input
    while producer.target in _MOVES and len(producer.users) == 1:
        producer = producer.all_input_nodes[0]
    return _Found(clamp, producer)


def _replaced(editor: Editor, found: _Found[_V]) -> str:
    """Leave the clamp out, whose value is now that of its input."""
    text = f"merged into {label(found.producer)}"
    update_info(found.producer, value="")
    update_info(found.clamp.input, value=value_name(found.clamp.node) or "")
    editor.replace(found.clamp.node, found.clamp.input)
    return text


@dataclass(frozen=True)
class ProducerThenClamp(Rule[_Found[IntClamp]]):
    """A clamp of integers, and the operator that makes its values."""

    def match(self, gm: GraphModule, node: Node) -> _Found[IntClamp] | None:
        clamp = IntClamp.of(node)
        return None if clamp is None else _found(clamp)

    def refuse(self, gm: GraphModule, found: _Found[IntClamp]) -> str | None:
        if len(found.producer.users) > 1:
            return f"{label(found.producer)} is read by {len(found.producer.users)} nodes"
        if not Clamping.matches(found.producer):
            return f"{label(found.producer)} does not clamp"
        return None

    def replace(self, editor: Editor, found: _Found[IntClamp]) -> str:
        producer, clamp = Clamping(found.producer), found.clamp
        # clamp(clamp(x, a, b), c, d) = clamp(x, lo, hi) also where [a, b] and [c, d] do not meet
        lo = min(max(producer.lo, clamp.lo), clamp.hi)
        hi = max(min(producer.hi, clamp.hi), clamp.lo)
        producer.lo, producer.hi = lo, hi
        return _replaced(editor, found)


@dataclass(frozen=True)
class RealsThenClamp(Rule["_Found[Relu | Clamp]"]):
    """A clamp of float32 values, and the integer operator that makes them."""

    def match(self, gm: GraphModule, node: Node) -> _Found[Relu | Clamp] | None:
        clamp = Relu.of(node) or Clamp.of(node)
        if clamp is None:
            return None
        found = _found(clamp)
        return found if Bounded.matches(found.producer) else None

    def refuse(self, gm: GraphModule, found: _Found[Relu | Clamp]) -> str | None:
        if len(found.producer.users) > 1:
            return f"{label(found.producer)} is read by {len(found.producer.users)} nodes"
        if any(isinstance(bound, Node) for bound in _bounds(found.clamp)):
            return "its bounds are tensors"
        return None

    def replace(self, editor: Editor, found: _Found[Relu | Clamp]) -> str:
        producer = Bounded(found.producer)
        lo, hi = (None if b is None else float(np.float32(b)) for b in _bounds(found.clamp))
        ends = [_clamped(b, lo, hi) for b in (producer.least, producer.greatest)]
        producer.least = lo if ends[0] is None else ends[0]
        producer.greatest = hi if ends[1] is None else ends[1]
        return _replaced(editor, found)


def _bounds(clamp: Relu | Clamp) -> tuple[float | None, float | None]:
    return (0.0, None) if isinstance(clamp, Relu) else (clamp.min, clamp.max)


def _clamped(value: float | None, lo: float | None, hi: float | None) -> float | None:
    """`value` clamped as PyTorch does it, where both bounds may be missing."""
    if value is None:
        return None
    value = value if lo is None else max(value, lo)
    return value if hi is None else min(value, hi)


@dataclass(frozen=True)
class MergeClamps(Pass, name="merge-clamps", requires={CORE_FORM, INTEGER}):
    """Merge clamps, ReLU and ReLU6 among them, into the integer operators that make their input."""

    def apply(self, gm: GraphModule, ctx: PassContext) -> bool:
        return apply_rules((ProducerThenClamp(), RealsThenClamp()), self, gm, ctx)

"""Which outputs of a graph are the same bits everywhere, and which depend on float operators.

Integer operators, and the float multiplication that leads to integers or back, have one result on
every target. So have operators that move values or choose among them. All other float operators
are rounded in an order that depends on the compiler, and what reads them inherits that: also an
integer, where the rounding decides between two steps of a grid.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch.fx import GraphModule, Node

from qpc.calls import aten, is_shape_arithmetic, qpc_ops
from qpc.meta import label


@dataclass(frozen=True)
class Exactness:
    """What an output depends on.

    output: the node that makes it. rounded: the float operators before it, in the order of the
    graph, whose rounding may differ from PyTorch's; none if the output is exact.
    """

    output: str
    rounded: tuple[str, ...] = ()

    @property
    def exact(self) -> bool:
        """Whether every backend returns the same bits."""
        return not self.rounded

    def __str__(self) -> str:
        if self.exact:
            return f"{self.output}: exact, the same bits on every target"
        shown = ", ".join(self.rounded[:_SHOWN])
        more = f" and {len(self.rounded) - _SHOWN} more" if len(self.rounded) > _SHOWN else ""
        return f"{self.output}: rounded by float operators before it: {shown}{more}"


_SHOWN = 4


def exactness(gm: GraphModule) -> tuple[Exactness, ...]:
    """What each distinct output of a core-form graph depends on, in the order of the outputs."""
    before: dict[Node, Mapping[Node, None]] = {}
    constant: set[Node] = set()
    outputs: list[Node] = []
    for node in gm.graph.nodes:
        if node.op == "output":
            outputs = list(dict.fromkeys(node.all_input_nodes))
            continue
        sources = node.all_input_nodes
        if node.op == "get_attr" or (node.op == "call_function" and constant.issuperset(sources)):
            constant.add(node)  # computed once, by PyTorch
            before[node] = {}
            continue
        found: dict[Node, None] = {}
        for source in sources:
            found.update(before[source])
        if node.op == "call_function" and not _is_exact(node):
            found[node] = None
        before[node] = found
    order = {node: number for number, node in enumerate(gm.graph.nodes)}
    return tuple(
        Exactness(label(node), tuple(label(n) for n in sorted(before[node], key=order.__getitem__)))
        for node in outputs
    )


def _is_exact(node: Node) -> bool:
    target: Any = node.target
    if is_shape_arithmetic(node) or target in _EXACT:
        return True
    return getattr(target, "namespace", "") == "qpc" and target not in _ROUNDED


_ROUNDED = frozenset({qpc_ops.observe.default, qpc_ops.fake_quantize.default})
"""Operators of graphs that are on their way to integers."""

_EXACT = frozenset(
    {
        # move values
        aten.reshape.default,
        aten.permute.default,
        aten.expand.default,
        aten.slice.Tensor,
        aten.select.int,
        aten.cat.default,
        aten.stack.default,
        aten.flip.default,
        aten.roll.default,
        aten.repeat.default,
        aten.clone.default,
        aten.dropout.default,
        aten.pixel_shuffle.default,
        aten.pixel_unshuffle.default,
        aten.channel_shuffle.default,
        aten.constant_pad_nd.default,
        aten.pad.default,
        aten.index_select.default,
        aten.gather.default,
        aten.embedding.default,
        aten.upsample_nearest2d.default,
        aten._upsample_nearest_exact2d.default,
        aten.sym_size.int,
        # choose among them, or compare them
        aten.relu.default,
        aten.relu6.default,
        aten.clamp.default,
        aten.clamp_min.default,
        aten.clamp_max.default,
        aten.hardtanh.default,
        aten.maximum.default,
        aten.minimum.default,
        aten.amax.default,
        aten.amin.default,
        aten.argmax.default,
        aten.argmin.default,
        aten.max.dim,
        aten.max_pool1d.default,
        aten.max_pool2d.default,
        aten.max_pool3d.default,
        aten.where.self,
        aten.masked_fill.Scalar,
        *(getattr(aten, n).Tensor for n in ("eq", "ne", "lt", "le", "gt", "ge")),
        *(getattr(aten, n).Scalar for n in ("eq", "ne", "lt", "le", "gt", "ge")),
        # change the sign
        aten.abs.default,
        aten.neg.default,
    }
)
"""Float operators with one result, however they are compiled."""

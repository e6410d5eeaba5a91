"""Which outputs of a graph are the same bits everywhere, and which depend on float operators.

Integer operators, and the float multiplication that leads to integers or back, have one result on
every target. So have operators that move values or choose among them. All other float operators
are rounded in an order that depends on the compiler, and what reads them inherits that: also an
integer, where the rounding decides between two steps of a grid.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch.fx import GraphModule, Node

from qpc.calls import is_shape_arithmetic
from qpc.meta import label
from qpc.registry import spec_of


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
    spec = spec_of(node)
    return is_shape_arithmetic(node) or (spec is not None and spec.exact)

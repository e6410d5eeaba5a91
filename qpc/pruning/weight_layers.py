"""The layers whose weights are masked or regularised, and how their weights are laid out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import Tensor
from torch.fx import GraphModule, Node

from qpc.analysis.origins import computed
from qpc.calls import qpc_ops
from qpc.layers import outputs_first, own_layout, weighted
from qpc.meta import attribute, info
from qpc.registry import op_name


@dataclass(frozen=True)
class Scope:
    """Which layers are meant: those that every selector given here selects, all without any.

    module: a module path; selects that module and everything inside it.
    pattern: a shell pattern over the whole module path; `*` also matches dots.
    op: a core operator's name, such as "conv2d".
    """

    module: str | None = None
    pattern: str | None = None
    op: str | None = None

    def selects(self, node: Node) -> bool:
        """Whether a layer's node is meant."""
        path = info(node).module_path
        return (
            (self.module is None or f"{path}.".startswith(f"{self.module}."))
            and (self.pattern is None or fnmatchcase(path, self.pattern))
            and self.op in (None, op_name(node))
        )


@dataclass(frozen=True)
class LayerWeight:
    """The weight of a layer: its name, which of its axes runs over outputs, and its groups."""

    node: Node
    name: str
    output_axis: int = 0
    groups: int = 1

    def outputs_first(self, tensor: Tensor) -> Tensor:
        """A tensor of the weight's shape as [out, in/groups, *kernel]."""
        return outputs_first(tensor, self.output_axis, self.groups)

    def own_layout(self, tensor: Tensor) -> Tensor:
        """What `outputs_first` made, in the weight's own layout again."""
        return own_layout(tensor, self.output_axis, self.groups)


def float_layers(gm: GraphModule, scope: Scope) -> Iterator[tuple[Node, LayerWeight | str]]:
    """The convolution and linear layers that `scope` selects, with their weights.

    A weight that several layers share comes once, under its first name. Where there is no weight to
    change, the reason stands in its place.
    """
    names = first_names(gm)
    seen: set[str] = set()
    for node in gm.graph.nodes:
        layer = weighted(node)
        if layer is None or not scope.selects(node):
            continue
        source = _parameter(layer.weight)
        if source is None:
            yield node, f"its weight {computed(layer.weight)}"
            continue
        name = names[str(source.target)]
        if attribute(gm, name).dim() < 2:
            yield node, f"its weight {name!r} has no input channels"
            continue
        if name not in seen:
            seen.add(name)
            yield node, LayerWeight(node, name, layer.output_axis, layer.groups)


def first_names(gm: GraphModule) -> dict[str, str]:
    """For every name of a tensor that a node reads, the first of all names of that tensor."""
    first: dict[int, str] = {}
    read = [str(node.target) for node in gm.graph.nodes if node.op == "get_attr"]
    return {name: first.setdefault(id(attribute(gm, name)), name) for name in read}


def _parameter(weight: Node) -> Node | None:
    """The parameter behind a weight, which may be rounded on its way to the layer."""
    while weight.target is qpc_ops.fake_quantize.default:
        weight = weight.all_input_nodes[0]
    return weight if weight.op == "get_attr" else None

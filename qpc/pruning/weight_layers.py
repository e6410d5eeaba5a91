"""The layers whose weights are masked or regularised, and how their weights are laid out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import Tensor
from torch.fx import GraphModule, Node

from qpc.meta import attribute, info
from qpc.ops import views
from qpc.ops.registry import op_name
from qpc.ops.views import qpc_ops

_LAYERS: tuple[type[views.Weighted], ...] = (
    views.Conv1d,
    views.Conv2d,
    views.Conv3d,
    views.ConvTranspose1d,
    views.ConvTranspose2d,
    views.ConvTranspose3d,
    views.Linear,
)


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
        if self.output_axis == 0:
            return tensor
        inputs, per_group, *kernel = tensor.shape
        split = tensor.reshape(self.groups, inputs // self.groups, per_group, *kernel)
        return split.transpose(1, 2).reshape(-1, inputs // self.groups, *kernel)

    def own_layout(self, tensor: Tensor) -> Tensor:
        """What `outputs_first` made, in the weight's own layout again."""
        if self.output_axis == 0:
            return tensor
        outputs, per_group, *kernel = tensor.shape
        split = tensor.reshape(self.groups, outputs // self.groups, per_group, *kernel)
        return split.transpose(1, 2).reshape(-1, outputs // self.groups, *kernel)


def float_layers(gm: GraphModule, scope: Scope) -> Iterator[tuple[Node, LayerWeight | str]]:
    """The convolution and linear layers that `scope` selects, with their weights.

    A weight that several layers share comes once, under its first name. Where there is no weight to
    change, the reason stands in its place.
    """
    names: dict[int, str] = {}
    for node in gm.graph.nodes:
        layer = next((v for kind in _LAYERS if (v := kind.of(node))), None)
        if layer is None or not scope.selects(node):
            continue
        source = _parameter(layer.weight)
        if source is None:
            yield node, f"its weight {layer.weight.name} is computed, not a parameter"
            continue
        name = str(source.target)
        first = names.setdefault(id(attribute(gm, name)), name)
        if first != name or any(n.op == "get_attr" and n.target == name for n in seen_before(gm, source)):
            yield node, f"its weight is {first!r}, which an earlier layer owns"
        else:
            groups = 1 if isinstance(layer, views.Linear) else int(layer.groups)  # type: ignore[attr-defined]
            yield node, LayerWeight(node, name, layer.output_axis, groups)

"""Fold a multiplication by a number into the linear layer before it.

Before:  x -> linear(W, b) -> mul(2.0) -> y
After:   x -> linear(2 W, 2 b) -> y
Keeps:   the output, up to float rounding
Leaves:  a layer or parameter that is read elsewhere too
Cost:    one walk over the graph
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn
from torch.fx import GraphModule, Node

import qpc
from qpc.edit import Editor, reads
from qpc.meta import attribute, label
from qpc.ops.arithmetic import Mul
from qpc.ops.linear import Linear
from qpc.rewrite import Rule, apply_rules


@dataclass(frozen=True)
class Scaled:
    """A linear layer whose value is multiplied by a number."""

    layer: Linear
    product: Node
    factor: float

    @property
    def parameters(self) -> list[Node]:
        """The parameters of the layer."""
        return [n for n in (self.layer.weight, self.layer.bias) if n is not None]


def scaled_layer(node: Node) -> Scaled | None:
    """What `node` is the last operator of, if it multiplies a linear layer's value."""
    product = Mul.of(node)
    if product is None or isinstance(product.b, Node):
        return None
    layer = Linear.of(product.a)
    return Scaled(layer, node, product.b) if layer is not None else None


@dataclass(frozen=True)
class LinearThenScale(Rule[Scaled]):
    """A multiplication by a number, behind a linear layer."""

    largest: float

    def match(self, gm: GraphModule, node: Node) -> Scaled | None:
        """Look for the multiplication."""
        return scaled_layer(node)

    def refuse(self, gm: GraphModule, found: Scaled) -> str | None:
        """Leave shared layers alone, and factors that are too large."""
        if abs(found.factor) > self.largest:
            return f"the factor {found.factor} is larger than {self.largest}"
        if len(found.layer.node.users) > 1:
            return f"{label(found.layer.node)} is read by {len(found.layer.node.users)} nodes"
        shared = [n.target for n in found.parameters if reads(gm, n) > 1]
        return f"{shared[0]!r} is shared" if shared else None

    def replace(self, editor: Editor, found: Scaled) -> str:
        """Scale the parameters and drop the multiplication."""
        for node in found.parameters:
            name = str(node.target)
            value = attribute(editor.gm, name).detach() * found.factor
            editor.set_tensor(name, nn.Parameter(value))
        editor.replace(found.product, found.layer.node)
        return f"folded {found.factor} into {label(found.layer.node)}"


def find_scale(gm: GraphModule) -> str | None:
    """The first multiplication that is left."""
    left = (node for node in gm.graph.nodes if scaled_layer(node) is not None)
    return next((f"{label(node)} multiplies by a number" for node in left), None)


SCALE_FREE = qpc.Fact("scale-free", find_scale)


@dataclass(frozen=True)
class FoldScales(qpc.Pass, name="fold-scales"):
    """Fold all factors up to `largest`."""

    largest: float = 100.0

    def apply(self, gm: GraphModule, ctx: qpc.PassContext) -> bool:
        """Apply the rule until nothing matches."""
        return apply_rules((LinearThenScale(self.largest),), self, gm, ctx)


@dataclass(frozen=True)
class RequireScaleFree(qpc.Pass, name="require-scale-free", establishes={SCALE_FREE}):
    """Change nothing; establish, by its check, that no factor is left."""

    def apply(self, gm: GraphModule, ctx: qpc.PassContext) -> bool:
        """Leave the checking to the pipeline."""
        return False


@dataclass(frozen=True)
class CountLayers(qpc.Pass, name="count-layers", requires={SCALE_FREE}):
    """Report how many linear layers there are; factors would count twice."""

    def apply(self, gm: GraphModule, ctx: qpc.PassContext) -> bool:
        """Count them."""
        layers = [node for node in gm.graph.nodes if Linear.matches(node)]
        ctx.summarize(f"{len(layers)} linear layers")
        return False

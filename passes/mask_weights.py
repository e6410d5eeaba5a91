"""Mask weights: set those to zero that a rule picks, and remember which.

Before:  conv2d(x, W)
After:   conv2d(x, W * mask), with the mask beside the graph as `weight_masks.<name of W>`
Keeps:   the graph; weights that are masked already stay masked
Leaves:  weights that are computed; layers in which the rule picks nothing; everything else
Cost:    a sort of the weights

Later passes see ordinary weights with zeros among them; batch-norm folding, removal of channels and
quantization keep the zeros. `qpc.pruning.weight_masks` has what training needs to keep them.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor
from torch.fx import GraphModule

from qpc.base import Pass, PassContext
from qpc.errors import ConfigError, PassError
from qpc.facts import CORE_FORM
from qpc.meta import attribute
from qpc.pruning.granularity import Elements, Granularity
from qpc.pruning.weight_layers import LayerWeight, Scope, float_layers
from qpc.pruning.weight_masks import WEIGHTS_MASKED, add_weight_mask, weight_mask
from qpc.pruning.weight_rules import MASKED_ALREADY, WeightRule
from qpc.settings import require_kind


@dataclass(frozen=True)
class MaskWeights(Pass, name="mask-weights", requires={CORE_FORM}, establishes={WEIGHTS_MASKED}):
    """Mask the weights of convolution and linear layers in addition to masks there are.

    rule: which pieces stay: `Threshold`, `Ratio`, `NOfM`, `Chosen`, or one of your own.
    granularity: what a piece is: `Elements`, `Blocks`, `kernels()`, `rows()`, `columns()`.
    scope: the layers to look at; to treat layers differently, run several such passes.
    """

    rule: WeightRule
    granularity: Granularity = field(default_factory=Elements)
    scope: Scope = field(default_factory=Scope)

    def __post_init__(self) -> None:
        for name, method in (("rule", "keep"), ("granularity", "scores")):
            if not callable(getattr(getattr(self, name), method, None)):
                raise ConfigError(
                    f"{name} must be an object with a method `{method}`, got "
                    f"{getattr(self, name)!r}",
                    fix="MaskWeights(Ratio(0.5), Blocks(16, 4))",
                )
        require_kind("scope", self.scope, Scope, "a Scope", fix='Scope(module="layer1")')

    def apply(self, gm: GraphModule, ctx: PassContext) -> bool:
        layers: list[LayerWeight] = []
        for node, found in float_layers(gm, self.scope):
            if isinstance(found, str):
                ctx.decline(node, found)
            else:
                layers.append(found)
        if not layers:
            raise PassError(f"no layer with a weight is in {self.scope}")
        scores = [self._scores(gm, layer) for layer in layers]
        changed, masked, total = False, 0, 0
        for layer, keep in zip(layers, self.rule.keep(scores), strict=True):
            weight = attribute(gm, layer.name)
            shape = layer.outputs_first(weight).shape
            stays = layer.own_layout(self.granularity.spread(keep, shape))
            new = add_weight_mask(gm, layer.name, stays)
            mask = weight_mask(gm, layer.name)
            gone = 0 if mask is None else int((~mask).sum())
            if new:
                ctx.change(layer.node, f"{gone} of {weight.numel()} weights are masked")
            elif bool(stays.all()):
                ctx.decline(layer.node, "the rule masks no weight here")
            changed, masked, total = changed or new, masked + gone, total + weight.numel()
        ctx.summarize(f"{masked} of {total} weights are masked")
        return changed

    def _scores(self, gm: GraphModule, layer: LayerWeight) -> Tensor:
        """Scores in the order of outputs first; pieces without a weight left are below all."""
        weight = attribute(gm, layer.name).detach()
        old = weight_mask(gm, layer.name)
        if old is None:
            return self.granularity.scores(layer.outputs_first(weight))
        scores = self.granularity.scores(layer.outputs_first(weight.masked_fill(~old, 0)))
        left = self.granularity.scores(layer.outputs_first(old.to(weight.dtype)))
        return scores.masked_fill(left == 0, MASKED_ALREADY)

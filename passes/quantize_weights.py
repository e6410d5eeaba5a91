"""Give linear layers integer weights, and leave their values in float.

Before:  linear(x, W, b)
After:   qpc::weight_only_linear(x, W int8 or packed int4, scale, b), or
         qpc::dynamic_linear(x, W int8, scale, b), which finds a grid for each row of x
Keeps:   the output, up to the rounding of the weights, and of the rows of x where they are dynamic
Leaves:  layers of the mode "static"; convolutions; weights that are computed; all else
Cost:    one walk over the weights

Neither needs calibration. The sums of a dynamic layer are integers, and are proven to fit 32 bits
whatever the rows hold; a layer whose sums might not raises OverflowProofError.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from qpc.analysis.quantization import layer_configs
from qpc.base import Pass, PassContext
from qpc.calls import qpc_ops
from qpc.edit import Editor
from qpc.errors import OverflowProofError, PassError
from qpc.facts import CORE_FORM
from qpc.meta import attribute, info, update_info, value_name
from qpc.ops.linear import Linear, refuse_layer
from qpc.ops.stored_linear import require_row_sums
from qpc.quant.config import Mode, QuantConfig, WeightConfig
from qpc.quant.stored_weights import PACKED_BITS, pack, quantize_in_groups
from qpc.settings import require_kind


@dataclass(frozen=True)
class QuantizeWeights(Pass, name="quantize-weights", requires={CORE_FORM}):
    """Quantize the linear layers whose mode under `config` is "weight-only" or "dynamic"."""

    config: QuantConfig = field(default_factory=QuantConfig)

    def __post_init__(self) -> None:
        require_kind(
            "config", self.config, QuantConfig, "a QuantConfig", fix="see docs/quantization.md"
        )

    def apply(self, gm: GraphModule, ctx: PassContext) -> bool:
        work = _Work(gm, self.name)
        chosen = layer_configs(gm, self.config).items()
        layers = [(node, config) for node, config in chosen if config.mode != "static"]
        for node, config in ctx.each(layers, "quantizing weights"):
            if why := _why_not(node):
                ctx.decline(node, why)
                continue
            work.replace(Linear(node), config.mode, config.weight)
            ctx.change(node, f"{config.mode}, {config.weight.bits} bits")
        work.finish()
        ctx.summarize(f"{work.count} linear layers have integer weights, and values in float")
        return work.count > 0


def _why_not(node: Node) -> str | None:
    if Linear.of(node) is None:
        return "only linear layers have integer weights without integer values"
    if info(node).dtype is not torch.float32:
        return f"linear works on {info(node).dtype}"
    return refuse_layer(node)


class _Work:
    """One walk; `made` holds weights and scales by the tensor that they were made of."""

    def __init__(self, gm: GraphModule, origin: str) -> None:
        self.gm, self.editor, self.count = gm, Editor(gm, origin), 0
        self.made: dict[tuple[int, Mode, WeightConfig], tuple[Node, Node]] = {}

    def replace(self, layer: Linear, mode: Mode, config: WeightConfig) -> None:
        """Put the layer with integer weights in place of a float one."""
        real = attribute(self.gm, str(layer.weight.target))  # one tensor may have two names
        key = id(real), mode, config
        if key not in self.made:
            self.made[key] = self._store(layer, real, mode, config)
        operands = (layer.input, *self.made[key], layer.bias)
        if mode == "dynamic":
            made = self.editor.call(qpc_ops.dynamic_linear.default, *operands, like=layer.node)
        else:
            group = config.group or max(real.shape[1], 1)
            made = self.editor.call(
                qpc_ops.weight_only_linear.default, *operands, group, like=layer.node
            )
        update_info(made, value=value_name(layer.node) or "")
        self.editor.replace(layer.node, made)
        self.count += 1

    def _store(
        self, layer: Linear, real: Tensor, mode: Mode, config: WeightConfig
    ) -> tuple[Node, Node]:
        """The new weight and its scales, which are kept as buffers."""
        try:
            weight, scale = quantize_in_groups(real, config)
            if mode == "dynamic":
                scale = scale.flatten()
                require_row_sums(weight)
            elif config.bits <= PACKED_BITS:
                weight = pack(weight)
        except (OverflowProofError, PassError) as e:
            path = info(layer.node).module_path or layer.node.name
            fix = f"keep the layer in float: Override(module={path!r}, use='float')"
            raise type(e)(e.what, node=layer.node, fix=fix) from e
        owner = str(layer.weight.target).rpartition(".")[0] or layer.node.name
        parts = (("weight", weight), ("scale", scale))
        kept, scales = (
            self.editor.buffer(
                self.editor.free_name(f"integers.{owner}.{leaf}"), value, before=layer.node
            )
            for leaf, value in parts
        )
        return kept, scales

    def finish(self) -> None:
        """Clear up, and let integer tensors take the names of the float ones."""
        if self.count:
            self.editor.drop_unused()
            self.editor.promote("integers")
            self.editor.drop_unused()

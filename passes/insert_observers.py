"""Insert an observer for every grid that quantization will need.

Before:  x -> conv2d -> relu -> linear -> y
After:   x -> observe -> conv2d -> relu -> observe -> linear -> y; conv2d shares the grid of relu,
         and y, which no integer operator reads, is not rounded
Keeps:   the output, bit for bit
Leaves:  operators without an integer form, or kept in float by the configuration, with the reason
Cost:    one walk over the graph

Reports "N of M convolution and linear layers will be quantized", warns of those that stay in float
although the configuration would quantize them, and raises PassError if no layer could be quantized.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from torch.fx import GraphModule, Node

from qpc.analysis.coverage import (
    is_quantized,
    kind_of,
    layers_with_weights,
    left_unwillingly,
    reasons_of,
    require_some,
)
from qpc.analysis.quantization import QuantizationPlan, plan_quantization, rounded_operands
from qpc.base import Pass, PassContext
from qpc.calls import qpc_ops
from qpc.edit import Editor
from qpc.errors import PassError
from qpc.facts import CORE_FORM, OBSERVED, require_unquantized
from qpc.meta import info, update_info
from qpc.passes.fold_batch_norm import foldable_norms
from qpc.quant.config import QuantConfig
from qpc.settings import require_kind


@dataclass(frozen=True)
class InsertObservers(Pass, name="insert-observers", requires={CORE_FORM}, establishes={OBSERVED}):
    """Decide what is quantized under `config` and put observers where statistics are needed.

    fold_later: batch norms that `FoldBatchNorm` could fold are parts of their layers: no grid is
    between the two, and the weights are rounded as they will be once the batch norms are folded,
    at the conversion to integers. Until then their statistics and parameters can be trained.
    """

    config: QuantConfig = field(default_factory=QuantConfig)
    fold_later: bool = False

    def __post_init__(self) -> None:
        require_kind("fold_later", self.fold_later, bool, "True or False")
        require_kind(
            "config", self.config, QuantConfig, "a QuantConfig", fix="see docs/quantization.md"
        )

    def apply(self, gm: GraphModule, ctx: PassContext) -> bool:
        if any(n.target is qpc_ops.observe.default for n in gm.graph.nodes):
            ctx.summarize("observers are there already")
            return False
        require_unquantized(gm)
        parts = foldable_norms(gm) if self.fold_later else {}
        plan = plan_quantization(gm, self.config, parts)
        if unmatched := self.config.unmatched(plan.sites):
            raise PassError(
                f"the configuration's override {unmatched[0]!r} matches nothing in this graph",
                fix="look at the module paths in print(qpc.format_graph(gm))",
            )
        require_some(layers_with_weights(gm), plan)
        return insert_observers(Editor(gm, self.name), plan, ctx)


def insert_observers(editor: Editor, plan: QuantizationPlan, ctx: PassContext) -> bool:
    """Put a plan into node info, and an observer behind every carrier; whether anything changed."""
    for node, why in plan.declined.items():
        ctx.decline(node, why)
    news = {n: why for n, why in plan.declined.items() if info(n).declined != why}
    for node, why in news.items():
        update_info(node, declined=why)
    names = {
        carrier: _insert(editor, carrier, plan) for carrier in dict.fromkeys(plan.carrier.values())
    }
    for node in dict.fromkeys((*plan.carrier, *sorted(plan.integer))):
        observer = names[plan.carrier[node]] if node in plan.carrier else None
        update_info(node, observer=observer, config=plan.configs.get(node))
        update_info(node, integer=node in plan.integer)
    _summarize(editor.gm, ctx)
    return bool(names or news)


def _insert(editor: Editor, carrier: Node, plan: QuantizationPlan) -> str:
    """An `observe` call after `carrier`, read in its place by what will read a rounded value.

    Float operators go on reading values that are made in float as they are.
    """
    config = plan.grid_configs[carrier]
    name = editor.free_name(f"observers.{carrier.name}")
    for key, value in config.activation.observer.init().items():
        editor.set_tensor(f"{name}.{key}", value)
    rounded = carrier in plan.integer
    readers = [user for user in carrier.users if rounded or user in plan.integer]
    if carrier.op == "get_attr":  # which layers may read too, as their weight
        readers = [user for user in readers if carrier in rounded_operands(user)]
    made = editor.call(
        qpc_ops.observe.default, carrier, name, like=carrier, after=_last_placeholder(carrier)
    )
    update_info(made, observer=name, config=config)
    for reader in readers:
        reader.replace_input_with(carrier, made)
    return name


def _last_placeholder(carrier: Node) -> Node:
    """Placeholders stay together at the top of the graph."""
    if carrier.op != "placeholder":
        return carrier
    placeholders: list[Node] = [n for n in carrier.graph.nodes if n.op == "placeholder"]
    return placeholders[-1]


def _summarize(gm: GraphModule, ctx: PassContext) -> None:
    layers = layers_with_weights(gm)
    done = sum(map(is_quantized, layers))
    count = f"of {len(layers)} {kind_of(layers)}"
    ctx.summarize(f"{done} {count} will be quantized")
    if left := left_unwillingly(layers):
        stay = "stays" if len(left) == 1 else "stay"
        ctx.warn("the model", f"{len(left)} {count} {stay} in float ({reasons_of(left)})")

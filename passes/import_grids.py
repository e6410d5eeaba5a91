"""Take grids that are known by the names of values and parameters, in place of calibration.

Before:  x -> conv2d(W) -> relu -> linear -> y
After:   x -> observe -> conv2d(fake_quantize(W)) -> relu -> observe -> linear -> y, with grids that
         are fixed
Keeps:   the output up to the rounding of weights
Leaves:  layers of which a grid is missing, or cannot be had in integers, with the reason
Cost:    a plan of the graph for each round in which operators turn out to lack a grid

Operators of which a value has no grid stay in float, or are calibrated: `calibrated=True`, which
leaves their observers to `Calibrate`.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch.fx import GraphModule, Node

from qpc.analysis.coverage import layers_with_weights, require_some
from qpc.analysis.given_grids import GivenGrids, WeightGrid
from qpc.analysis.quantization import QuantizationPlan, plan_quantization
from qpc.base import Pass, PassContext
from qpc.calls import qpc_ops
from qpc.edit import Editor
from qpc.errors import PassError
from qpc.facts import CORE_FORM, OBSERVED
from qpc.layers import float_layer, weighted
from qpc.meta import attribute, info, label, update_info, value_name
from qpc.passes.insert_observers import insert_observers
from qpc.quant.config import LayerConfig, QuantConfig, WeightConfig
from qpc.quant.fixedpoint import BIAS_LIMIT
from qpc.quant.grid import LARGEST_SCALE, SMALLEST_SCALE, QParams
from qpc.registry import Role, role_of
from qpc.settings import require_kind

NO_WEIGHT_GRID = "no grid is given for its weight"


@dataclass(frozen=True)
class ImportGrids(Pass, name="import-grids", requires={CORE_FORM}, establishes={OBSERVED}):
    """Make observers with fixed grids.

    values: the grids of values, by the names that they have in the traced graph.
    weights: those of weights, by the names of the parameters.
    calibrated: whether calibration follows, for values that integer operators need and that have no
    grid. Without, these operators stay in float.
    config: for what is not given: observers, and what is kept in float all the same.
    """

    values: Mapping[str, QParams] = field(default_factory=dict)
    weights: Mapping[str, WeightGrid] = field(default_factory=dict)
    calibrated: bool = False
    config: QuantConfig = field(default_factory=QuantConfig)

    def __post_init__(self) -> None:
        require_kind("calibrated", self.calibrated, bool, "True or False")
        require_kind("config", self.config, QuantConfig, "a QuantConfig")

    def apply(self, gm: GraphModule, ctx: PassContext) -> bool:
        editor = Editor(gm, self.name)
        insert_given(editor, self._given(gm), self.config, ctx, calibrated=self.calibrated)
        return True

    def _given(self, gm: GraphModule) -> GivenGrids:
        named = {value_name(n): n for n in gm.graph.nodes if n.op not in ("get_attr", "output")}
        parameters = {str(n.target) for n in gm.graph.nodes if n.op == "get_attr"}
        unknown = [n for n in self.values if n not in named]
        unknown += [n for n in self.weights if n not in parameters]
        if unknown:
            raise PassError(
                f"there are grids for {len(unknown)} values or parameters that the graph does not"
                f" have, such as {unknown[0]!r}",
                fix="give them the names in print(qpc.format_graph(gm))",
            )
        weights, kept = {}, {}
        for layer in layers_with_weights(gm):
            view = weighted(layer)
            name = str(view.weight.target) if view is not None else ""
            if name in self.weights:
                weights[layer] = self.weights[name]
            else:
                kept[layer] = NO_WEIGHT_GRID
        return GivenGrids({named[n]: grid for n, grid in self.values.items()}, weights, kept)


def insert_given(
    editor: Editor, given: GivenGrids, config: QuantConfig, ctx: PassContext, *, calibrated: bool
) -> None:
    """Plan with grids that are given, insert observers that have them, and round the weights."""
    gm, kept = editor.gm, dict(given.kept)
    kept |= {n: why for n, grid in given.weights.items() if (why := _no_weight(gm, n, grid))}
    while True:
        plan = plan_quantization(gm, config, None, dataclasses.replace(given, kept=kept))
        grids = _grids(plan, given)
        news = dict(_unfit_biases(gm, plan, given, grids))
        if not calibrated:
            news |= _without_grids(plan, grids)
        if not news:
            break
        kept |= news
    require_some(layers_with_weights(gm), plan)
    insert_observers(editor, plan, ctx)
    for node in gm.graph.find_nodes(op="call_function", target=qpc_ops.observe.default):
        (carrier,) = node.all_input_nodes
        if (grid := grids.get(carrier)) is not None:
            update_info(node, qparams=grid)
    for layer, weight in given.weights.items():
        if layer in plan.integer:
            _round_weight(editor, layer, weight)
    _report(plan, given, grids, ctx)


# --- what the plan needs and what is given --------------------------------------------------------


def _members(plan: QuantizationPlan) -> dict[Node, list[Node]]:
    found: dict[Node, list[Node]] = defaultdict(list)
    for node, carrier in plan.carrier.items():
        found[carrier].append(node)
    return found


def _grids(plan: QuantizationPlan, given: GivenGrids) -> dict[Node, QParams]:
    """The grid of each carrier that has one: its own, or else that of a value which shares it."""
    found = {}
    for carrier, members in _members(plan).items():
        candidates = (carrier, plan.owners[carrier], *members)
        grid = next((given.values[n] for n in candidates if n in given.values), None)
        if grid is not None:
            found[carrier] = grid
    return found


def _without_grids(plan: QuantizationPlan, grids: Mapping[Node, QParams]) -> dict[Node, str]:
    """Operators that must stay in float because a value of theirs has no grid.

    Those that make such a value and are no layers, else those that read it and are none, else the
    layers that read it: a layer can make a float, but not read one.
    """
    found: dict[Node, str] = {}
    for carrier, members in _members(plan).items():
        if carrier in grids:
            continue
        makers = [n for n in members if n in plan.integer]
        readers = [u for n in members for u in n.users if u in plan.integer]
        plain = [[n for n in each if role_of(n) is not Role.COMPUTE] for each in (makers, readers)]
        leaving = plain[0] or plain[1] or readers
        reason = f"no grid is given for {label(carrier)}; calibration batches would give it one"
        found |= dict.fromkeys(leaving, reason)
    return found


def _no_weight(gm: GraphModule, layer: Node, grid: WeightGrid) -> str | None:
    """Why a layer cannot have an integer weight on this grid."""
    view = float_layer(layer)
    if view is None or view.weight.op != "get_attr":
        return None  # it stays in float anyway
    scales = grid.scales
    if not bool(((scales >= SMALLEST_SCALE) & (scales <= LARGEST_SCALE)).all()):
        return "a scale of its weight is not from 2**-126 to 2**119"
    outputs = attribute(gm, str(view.weight.target)).shape[view.output_axis]
    if scales.numel() == 1:
        return None
    if grid.axis != view.output_axis or (view.output_axis and view.groups > 1):
        return f"its weight has scales along axis {grid.axis}, not one for each output channel"
    if scales.numel() != outputs:
        return f"its weight has {scales.numel()} scales for {outputs} channels"
    return None


def _unfit_biases(
    gm: GraphModule, plan: QuantizationPlan, given: GivenGrids, grids: Mapping[Node, QParams]
) -> Iterator[tuple[Node, str]]:
    """Layers whose biases do not fit 32 bits at the scales that are given."""
    for layer, weight in given.weights.items():
        view = float_layer(layer)
        if layer not in plan.integer or view is None or view.bias is None:
            continue
        source = grids.get(plan.carrier[view.input])
        if source is None:
            continue
        bias = attribute(gm, str(view.bias.target)).detach().double().abs()
        if bool((bias / (source.scale * weight.scales.double()) > BIAS_LIMIT).any()):
            yield layer, "its bias does not fit 32 bits at the scales that are given"


# --- into the graph -------------------------------------------------------------------------------


def _round_weight(editor: Editor, layer: Node, grid: WeightGrid) -> None:
    view = float_layer(layer)
    assert view is not None
    name = f"quantizers.{layer.name}_weight"
    scales = grid.scales.reshape(-1)
    zeros = torch.zeros(scales.numel(), dtype=torch.int64)
    view.weight = editor.call(
        qpc_ops.fake_quantize.default,
        view.weight,
        editor.buffer(f"{name}.scale", scales, before=layer),
        editor.buffer(f"{name}.zero_point", zeros, before=layer),
        grid.lo,
        grid.hi,
        view.output_axis,
        like=layer,
    )
    config = info(layer).config or LayerConfig()
    weight = WeightConfig(bits=grid.bits, per_channel=scales.numel() > 1)
    update_info(layer, config=config.model_copy(update={"weight": weight}))


def _report(
    plan: QuantizationPlan, given: GivenGrids, grids: Mapping[Node, QParams], ctx: PassContext
) -> None:
    """Name grids that were given in vain: their values have another one, or none."""
    for node, grid in given.values.items():
        carrier = plan.carrier.get(node)
        if carrier is None:
            ctx.decline(
                node, "the grid given for its value is not used: only floats make or read it"
            )
        elif grids[carrier] != grid:
            ctx.decline(
                node, f"its value has the grid of {label(carrier)}, not the one given for it"
            )

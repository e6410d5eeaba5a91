"""What a graph consists of: `qpc.inspect_graph`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.fx import GraphModule, Node

from qpc.analysis.origins import reported_calls
from qpc.analysis.quantization import plan_quantization
from qpc.calls import qpc_ops
from qpc.channels.cost import cost, source_parameter
from qpc.channels.groups import ChannelAnalysis, analyze_channels
from qpc.effort import tidying
from qpc.errors import PassError
from qpc.facts import require_graph
from qpc.layers import any_layer
from qpc.meta import info, label
from qpc.modes import ordinary_torch
from qpc.pipeline import Pipeline
from qpc.printer import format_type
from qpc.quant.config import QuantConfig
from qpc.registry import Role, op_name, role_of

Form = Literal["integer", "float", "stored"]
"""How an operator computes: in integers, in float, or in float with weights kept as integers."""
Stage = Literal["float", "rounded", "integer"]
"""What a graph is: in float, in float with values rounded to grids, or of integers."""
_EIGHT = 8
_ROUND = qpc_ops.fake_quantize.default
_DEQUANTIZE = qpc_ops.dequantize.default
_BRIDGES = frozenset({qpc_ops.observe.default, _ROUND})


@dataclass(frozen=True)
class LayerFacts:
    """One operator that has parameters or multiplies, or that stays in float although it matters.

    name: as reports call it; node: in the graph; module: of the user's model, empty at the top.
    shape: of its result, as text. macs: multiply-accumulates at batch size 1. weight_bits: None
    without a weight that is rounded. form: how it computes, or will once the graph is quantized.
    why_float: why it is not in integers. group: of channels that it makes; None if it makes none.
    why_whole: why none of these can be pruned; empty if some can.
    """

    name: str
    node: str
    module: str
    operator: str
    shape: str
    parameters: int
    macs: int
    weight_bits: int | None
    form: Form
    why_float: str
    group: int | None
    why_whole: str


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that are pruned together: the layers that make them, and how many may go."""

    index: int
    layers: tuple[str, ...]
    channels: int
    prunable: int
    why_whole: str


@dataclass(frozen=True)
class Inspection:
    """What a graph consists of.

    stage: what it is. inputs, outputs: types as text, by name. operators: how many of each.
    channels: the groups; none if they could not be found, and why_no_channels says why.
    """

    stage: Stage
    inputs: Mapping[str, str]
    outputs: tuple[str, ...]
    operators: Mapping[str, int]
    parameters: int
    macs: int
    tensor_bytes: int
    layers: tuple[LayerFacts, ...]
    channels: tuple[ChannelGroup, ...]
    why_no_channels: str = ""

    @property
    def in_float(self) -> tuple[LayerFacts, ...]:
        """The operators that stay in float."""
        return tuple(layer for layer in self.layers if layer.form == "float")

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON values."""
        from qpc.terminal.plain import plain

        data = plain(self)
        assert isinstance(data, dict)
        return data

    def __str__(self) -> str:
        head = (
            f"a graph {_STAGES[self.stage]}: {self.parameters:,} parameters, "
            f"{self.macs:,} MACs, {self.tensor_bytes:,} bytes"
        )
        return "\n".join([head, *_rows(self.layers), *self._remarks()])

    def _remarks(self) -> Iterator[str]:
        reasons = Counter(layer.why_float for layer in self.in_float)
        for why, count in reasons.most_common():
            yield f"in float, {count} operator{'s' * (count > 1)}: {why}"
        if self.channels:
            some = sum(1 for group in self.channels if group.prunable)
            yield f"{some} of {len(self.channels)} groups of channels can be pruned"
        elif self.why_no_channels:
            yield f"channels: {self.why_no_channels}"


_STAGES: Mapping[Stage, str] = {
    "float": "in float",
    "rounded": "in float, rounded to grids",
    "integer": "of integers",
}


@ordinary_torch()
def inspect_graph(gm: GraphModule, config: QuantConfig | None = None) -> Inspection:
    """What a core-form graph consists of, and what quantization and pruning can do with it.

    gm: in float, rounded or of integers. config: how it would be quantized, if it is in float.

    Raises PassError for anything but a core-form graph.
    """
    require_graph(gm, "inspect")
    stage = stage_of(gm)
    seen = Pipeline(tidying()).run(gm) if stage == "float" else gm
    forms = _forms(seen, stage, config or QuantConfig())
    try:
        channels, why = analyze_channels(seen), ""
    except PassError as e:
        channels, why = None, e.what
    groups = () if channels is None else tuple(_groups(seen, channels))
    making = {} if channels is None else _makers(seen, channels, groups)
    total = cost(seen)
    costs = {c.node: (c.parameters, c.macs) for c in total.layers}
    outputs = next(iter(gm.graph.find_nodes(op="output"))).all_input_nodes
    return Inspection(
        stage,
        {str(n.target): _type(n) for n in gm.graph.find_nodes(op="placeholder")},
        tuple(map(_type, outputs)),
        dict(Counter(op_name(n) for n in gm.graph.nodes if n.op == "call_function").most_common()),
        total.parameters,
        total.macs,
        tensor_bytes(gm),
        tuple(_layers(seen, forms, costs, making)),
        groups,
        why,
    )


def in_integers(node: Node) -> bool:
    """Whether an operator computes in integers, even if its result is a float, as at an end."""
    if not str(node.target).startswith("qpc.") or node.target in (*_BRIDGES, _DEQUANTIZE):
        return False
    values = [node, *(n for n in node.all_input_nodes if n.op != "get_attr")]
    return any(info(n).dtype in (torch.int8, torch.uint8) for n in values)


def stage_of(gm: GraphModule) -> Stage:
    """What a graph is."""
    targets = {node.target for node in gm.graph.nodes}
    if _ROUND in targets:
        return "rounded"
    return "integer" if qpc_ops.quantize.default in targets else "float"


def tensor_bytes(gm: GraphModule) -> int:
    """Bytes of all parameters and buffers, each counted once."""
    tensors = {id(t): t for t in (*gm.parameters(), *gm.buffers())}
    return sum(t.numel() * t.element_size() for t in tensors.values())


# --- forms ----------------------------------------------------------------------------------------


def _forms(gm: GraphModule, stage: Stage, config: QuantConfig) -> dict[Node, tuple[Form, str]]:
    """How each operator that is reported computes, and why it does so in float."""
    if stage == "float":
        plan = plan_quantization(gm, config)
        stored = [n for n in gm.graph.nodes if role_of(n) is Role.STORED]
        planned: dict[Node, tuple[Form, str]] = dict.fromkeys(plan.integer, ("integer", ""))
        declined: dict[Node, tuple[Form, str]] = {n: ("float", w) for n, w in plan.declined.items()}
        return {**declined, **planned, **dict.fromkeys(stored, ("stored", ""))}
    found: dict[Node, tuple[Form, str]] = {}
    for node in reported_calls(gm) | {n for n in gm.graph.nodes if any_layer(n) is not None}:
        about = info(node)
        if node.target in _BRIDGES or node.target is _DEQUANTIZE:
            continue
        if role_of(node) is Role.STORED:
            found[node] = ("stored", "")
        elif about.integer or about.dtype in (torch.int8, torch.uint8) or in_integers(node):
            found[node] = ("integer", "")
        else:
            found[node] = ("float", about.declined or "it was made in float")
    return found


def _layers(
    gm: GraphModule,
    forms: Mapping[Node, tuple[Form, str]],
    costs: Mapping[str, tuple[int, int]],
    making: Mapping[Node, ChannelGroup],
) -> Iterator[LayerFacts]:
    for node in gm.graph.nodes:
        parameters, macs = costs.get(node.name, (0, 0))
        form, why = forms.get(node, ("float", ""))
        if node.op != "call_function" or not (parameters or macs or (form == "float" and why)):
            continue
        group = making.get(node)
        yield LayerFacts(
            label(node),
            node.name,
            info(node).module_path,
            op_name(node),
            _type(node),
            parameters,
            macs,
            _weight_bits(node, form),
            form,
            why,
            None if group is None else group.index,
            "" if group is None or group.prunable else group.why_whole,
        )


def _weight_bits(node: Node, form: Form) -> int | None:
    if form == "float" or any_layer(node) is None:
        return None
    config = info(node).config
    return _EIGHT if config is None else config.weight.bits


# --- channels -------------------------------------------------------------------------------------


def _groups(gm: GraphModule, channels: ChannelAnalysis) -> Iterator[ChannelGroup]:
    owners = _owners(gm)
    for group in channels.groups:
        keys = [(s.name, s.axis) for s in group.slices]
        layers = dict.fromkeys(owners[key] for key in keys if key in owners)
        pinned = Counter(unit.pinned for unit in group.units if unit.pinned is not None)
        why = pinned.most_common(1)[0][0] if pinned and not group.prunable else ""
        names = tuple(layers) or (group.name,)
        yield ChannelGroup(
            group.index, names, len(group.units), len(group.prunable), str(why or "")
        )


def _owners(gm: GraphModule) -> dict[tuple[str, int], str]:
    """The layer that makes channels, by its weight's name and the axis along which they lie."""
    found: dict[tuple[str, int], str] = {}
    for node in gm.graph.nodes:
        view = any_layer(node)
        source = None if view is None else source_parameter(view.weight)
        if view is not None and source is not None:
            key = (str(source.target), view.output_axis)
            found.setdefault(key, info(node).module_path or label(node))
    return found


def _makers(
    gm: GraphModule, channels: ChannelAnalysis, groups: tuple[ChannelGroup, ...]
) -> dict[Node, ChannelGroup]:
    """The group of the channels that each layer makes."""
    found = {}
    for node in gm.graph.nodes:
        view = any_layer(node)
        source = None if view is None else source_parameter(view.weight)
        if view is not None and source is not None:
            group = channels.group_of(str(source.target), view.output_axis)
            if group is not None:
                found[node] = groups[group.index]
    return found


# --- text -----------------------------------------------------------------------------------------


def _type(node: Node) -> str:
    return format_type(info(node).shape, info(node).dtype)


def _rows(layers: tuple[LayerFacts, ...]) -> Iterator[str]:
    width = max([len(layer.name) for layer in layers] or [5])
    shape = max([len(layer.shape) for layer in layers] or [5])
    yield (
        f"{'layer':<{width}}  {'operator':<14}  {'result':<{shape}}  {'parameters':>11}"
        f"  {'MACs':>13}  bits"
    )
    for layer in layers:
        bits = "float" if layer.form == "float" else str(layer.weight_bits or _EIGHT)
        yield (
            f"{layer.name:<{width}}  {layer.operator:<14}  {layer.shape:<{shape}}"
            f"  {layer.parameters:>11,}  {layer.macs:>13,}  {bits}"
        )

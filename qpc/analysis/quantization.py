"""Which operators become integer operators, and which values share one grid.

Convolutions and linear layers decide: an operator of another kind is integer only where all its
inputs are, and only together with at least one such layer, so that nothing is rounded for no gain.
A small operand that is broadcast, such as a gate by a softmax, is rounded like a layer's input.

Values share a grid where that makes an operator cheaper at no loss: moving values keeps their grid;
the producer of a ReLU takes the ReLU's grid, because clamping an integer is then all that is left
of it; the operands of a concat take the grid of the concat. A value that has other readers keeps a
grid of its own. What only float operators read has none (`qpc.analysis.float_results`), nor has
what a layer makes for an addition alone (`qpc.analysis.layer_sums`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod

import torch
from torch.fx import GraphModule, Node

from qpc.analysis.float_results import NOT_READ_BY_LAYERS, float_results, read_by_no_layer
from qpc.analysis.given_grids import GivenGrids
from qpc.analysis.layer_sums import layer_sums
from qpc.analysis.origins import (
    activations,
    bytes_behind,
    maker,
    multiplies_by_parameter,
    reported_calls,
)
from qpc.analysis.places import positions
from qpc.analysis.shared_grids import SharedGrids
from qpc.meta import info, label
from qpc.quant.config import LayerConfig, QuantConfig, Site
from qpc.registry import Role, op_name, quantization_of, role_of

_LARGER = 16
"""So many times as many values as a float operand has must an integer operator make of it."""

KEPT_IN_FLOAT = "kept in float by the configuration"
"""The reason of operators that could be integer."""


@dataclass(frozen=True)
class QuantizationPlan:
    """The result of `plan_quantization`.

    integer: operators that become integer operators.
    declined: operators that stay in float although they could matter, with the reason.
    carrier: for each quantized value the node after which its statistics are taken; one per shared
    grid.
    configs: the configuration of each integer operator and each carrier's grid.
    sites: every place that the configuration was asked about.
    places: the place of each of these nodes.
    owners: for each carrier the node whose place decides about the grid.
    """

    integer: frozenset[Node]
    declined: dict[Node, str]
    carrier: dict[Node, Node]
    configs: dict[Node, LayerConfig]
    grid_configs: dict[Node, LayerConfig]
    sites: tuple[Site, ...]
    places: dict[Node, Site]
    owners: dict[Node, Node]


def plan_quantization(
    gm: GraphModule,
    config: QuantConfig,
    parts: Mapping[Node, Node] | None = None,
    given: GivenGrids | None = None,
) -> QuantizationPlan:
    """Decide for every node of a core-form graph whether and how it is quantized.

    parts: operators that are to be folded into the layer which they read, and that nothing else
    reads; with that layer. They are quantized as it is, and it has no grid of its own.
    given: grids that are fixed already; what an integer operator makes is rounded to its own, also
    where only float operators read it.
    """
    parts = parts or {}
    given = given or GivenGrids()
    configs = _Configs(config, positions(gm, parts), parts)
    reasons: dict[Node, str] = {}
    candidates: set[Node] = set()
    for node in gm.graph.nodes:
        if node.op != "call_function":
            continue
        if role_of(node) is Role.STORED:
            configs.of(node)  # an override may be about it
            continue
        why = given.kept.get(node) or _why_float(node, configs)
        if why is None:
            candidates.add(node)
        else:
            reasons[node] = why
    _drop_unfed(candidates, reasons, configs)
    if unread := read_by_no_layer(gm, candidates):
        candidates -= unread
        reasons |= dict.fromkeys(unread, NOT_READ_BY_LAYERS)
        _drop_unfed(candidates, reasons, configs)
    _drop_without_layer(candidates, reasons)
    unrounded = _leave_in_float(gm, candidates, reasons, configs, given)
    sums = layer_sums(gm, candidates - unrounded, parts, configs.rounds(given))
    unrounded |= {n for value in sums.values() for n in (value, parts.get(value, value))}
    carrier, owner = _share_grids(gm, candidates, parts, unrounded, given)
    reported = reported_calls(gm)
    return QuantizationPlan(
        integer=frozenset(candidates),
        declined={n: why for n, why in reasons.items() if n in reported},
        carrier=carrier,
        configs={n: c for n in candidates if (c := configs.of(n)) is not None},
        grid_configs={c: configs.of(o) or config.default for c, o in owner.items()},
        sites=tuple(configs.seen),
        places=configs.places,
        owners=owner,
    )


@dataclass
class _Configs:
    """The configuration by node, and a record of every question."""

    config: QuantConfig
    positions: dict[Node, str]
    parts: Mapping[Node, Node]
    seen: list[Site] = field(default_factory=list)
    places: dict[Node, Site] = field(default_factory=dict)

    def of(self, node: Node) -> LayerConfig | None:
        node = self.parts.get(node, node)
        site = Site(info(node).module_path, _site_op(node), self.positions.get(node))
        self.seen.append(site)
        self.places[node] = site
        return self.config.resolve(module=site.module, op=site.op, position=site.position)

    def rounds(self, given: GivenGrids) -> Callable[[Node], bool]:
        """Whether the configuration, or a grid that is given, wants a value rounded in any case."""

        def wants(node: Node) -> bool:
            return (config := self.of(node)) is not None and config.results == "integer"

        return lambda node: node in given.values or wants(node)


def rounded_operands(node: Node) -> list[Node]:
    """What an integer operator reads on grids: values, and parameters that are used like these."""
    if quantization_of(node).rounds_constants:
        return list(node.all_input_nodes)
    return activations(node)


def layer_configs(gm: GraphModule, config: QuantConfig) -> dict[Node, LayerConfig]:
    """The configuration of every float layer that is not to be kept in float, in graph order."""
    configs = _Configs(config, positions(gm, {}), {})
    layers = [n for n in gm.graph.nodes if role_of(n) is Role.COMPUTE]
    return {n: found for n in layers if (found := configs.of(n)) is not None}


def _site_op(node: Node) -> str:
    return "input" if node.op == "placeholder" else op_name(node)


# --- candidates -----------------------------------------------------------------------------------


def _why_float(node: Node, configs: _Configs) -> str | None:
    """Why one operator must stay in float, by itself; None if it can be an integer operator."""
    if node in configs.parts:
        return None
    known = quantization_of(node)
    if known.role in (Role.FLOAT, Role.RECURRENT):
        hint = (
            ", unless LinearProducts() makes a layer of it" if multiplies_by_parameter(node) else ""
        )
        return f"{op_name(node)} has no integer form{hint}"
    if info(node).dtype is not torch.float32:
        return f"{op_name(node)} works on {info(node).dtype}"
    tensors = [n for n in node.all_input_nodes if n.op != "get_attr"]
    if any(info(n).dtype is None for n in tensors):
        return "its sizes are computed"
    if any(info(n).dtype is not torch.float32 for n in tensors):
        return "an input is not float32"
    if why := known.refuse(node):
        return why
    config = configs.of(node)
    if config is None:
        return KEPT_IN_FLOAT
    if known.role is Role.COMPUTE and config.mode != "static":
        return f"only linear layers have the mode {config.mode!r}"
    return None


def _drop_unfed(candidates: set[Node], reasons: dict[Node, str], configs: _Configs) -> None:
    """Drop operators with an input that is not quantized, until none is left.

    Layers quantize their input themselves, unless the configuration forbids it.
    """
    pending = sorted(candidates)
    while pending:
        node = pending.pop(0)
        if node not in candidates:
            continue
        for source in activations(node):
            if source in candidates or _quantizable_source(node, source, configs):
                continue
            candidates.discard(node)
            kept = "is kept" if role_of(node) is Role.COMPUTE else "stays"
            reasons[node] = f"its input {label(maker(source))} {kept} in float"
            pending += [u for u in node.users if u in candidates]
            break


def _quantizable_source(node: Node, source: Node, configs: _Configs) -> bool:
    if bytes_behind(source) is not None:
        return True
    if source.op == "placeholder" or role_of(node) is Role.COMPUTE:
        return configs.of(source) is not None or source.op != "placeholder"
    known = quantization_of(node)
    return known.role is Role.COMBINE and not known.joins_grids and _is_small(source, node)


def _is_small(operand: Node, result: Node) -> bool:
    """Whether an operand is a small part of what comes of it, as the gates of whole channels are.

    Then rounding it costs nothing beside what stays in integers by that.
    """
    sizes = [info(n).shape for n in (operand, result)]
    if None in sizes:
        return False
    counts = [prod(d for d in shape or () if isinstance(d, int)) for shape in sizes]
    return counts[0] * _LARGER <= counts[1]


def _drop_without_layer(candidates: set[Node], reasons: dict[Node, str]) -> None:
    """Drop connected groups of integer operators that hold no convolution or linear layer."""
    unseen = set(candidates)
    while unseen:
        group, pending = set(), [unseen.pop()]
        while pending:
            node = pending.pop()
            group.add(node)
            near = {*activations(node), *node.users} & unseen
            unseen -= near
            pending += near
        if not any(role_of(n) is Role.COMPUTE for n in group):
            candidates -= group
            for node in group:
                reasons[node] = "no quantized convolution or linear layer is next to it"


def _leave_in_float(
    gm: GraphModule,
    candidates: set[Node],
    reasons: dict[Node, str],
    configs: _Configs,
    given: GivenGrids,
) -> set[Node]:
    """Drop what only moves values to float operators; the operators whose results have no grid."""
    while True:
        ending, moving = float_results(gm, candidates, configs.parts, configs.rounds(given))
        candidates -= moving
        left = len(candidates)
        _drop_without_layer(candidates, reasons)
        if len(candidates) == left:
            return ending


# --- shared grids ---------------------------------------------------------------------------------


def _share_grids(
    gm: GraphModule,
    integer: set[Node],
    parts: Mapping[Node, Node],
    unrounded: set[Node],
    given: GivenGrids,
) -> tuple[dict[Node, Node], dict[Node, Node]]:
    """`carrier` of every quantized value, and the `owner` of every carrier's configuration.

    unrounded: operators whose results have no grid.
    """
    grids = SharedGrids()
    for node in gm.graph.nodes:
        if node not in integer:
            continue
        sources = activations(node)
        for source in rounded_operands(node):
            if source not in unrounded:
                grids.add(source, owner=node if source.op == "get_attr" else None)
        if node in unrounded:
            continue
        role = role_of(node)
        if role in (Role.MOVE, Role.INTERPOLATE):
            grids.follow(node, sources[0])
        elif node in parts or (
            role is Role.CLAMP
            and _adopts(sources[0], integer, grids)
            and given.agree(sources[0], node)
        ):
            grids.take_over(node, sources[0], owner=grids.owner_of(sources[0]))
        elif _joins_one_grid(node, grids, given):
            grids.follow(node, sources[0])
        else:
            grids.add(node)
            if quantization_of(node).joins_grids:
                for source in sources:
                    if _adopts(source, integer, grids) and given.agree(source, node):
                        grids.take_over(node, source, owner=node)
    return grids.carriers()


def _joins_one_grid(node: Node, grids: SharedGrids, given: GivenGrids) -> bool:
    """Whether a concat or the like joins values on one grid, as of slices of one value."""
    first, *others = rounded_operands(node) or [node]
    if not quantization_of(node).joins_grids or not others:
        return False
    return all(grids.same(first, n) for n in others) and given.agree(first, node)


def _adopts(value: Node, integer: set[Node], grids: SharedGrids) -> bool:
    """Whether the grid of `value` may be chosen by its only reader.

    Not through an interpolation: on a grid that ends sooner, its inputs would be clamped.
    """
    while True:
        if len(value.users) != 1:
            return False
        if value in integer and role_of(value) is Role.INTERPOLATE:
            return False
        keeps_grid = value in integer and (
            role_of(value) is Role.MOVE
            or (role_of(value) is Role.CLAMP and grids.same(value, activations(value)[0]))
        )
        if not keeps_grid:
            return True
        value = activations(value)[0]

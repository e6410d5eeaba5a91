"""The parts of a model that each have one number of bits: weights of layers, and grids of values.

What a configuration cannot tell apart is one part: layers that share a weight, values that share a
grid, and calls of one operator in one module.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from glob import escape
from typing import Literal

import networkx as nx
from torch.fx import GraphModule, Node

from qpc.analysis.quantization import QuantizationPlan
from qpc.calls import qpc_ops
from qpc.channels.cost import source_parameter
from qpc.layers import float_layer
from qpc.meta import attribute, label
from qpc.quant.config import LayerConfig, Override, QuantConfig, Site

PartKind = Literal["weights", "activations"]
"""What can be rounded."""


@dataclass(frozen=True)
class Part:
    """Weights or values that get the same number of bits.

    name: as reports call it: by its module, with the operator where that is not clear.
    sites: where a configuration decides about it.
    nodes: the names of the layers whose weights, or of the values that, are rounded.
    weights: how many weights they are; 0 for values.
    """

    kind: PartKind
    name: str
    sites: tuple[Site, ...]
    nodes: tuple[str, ...]
    weights: int = 0

    def __str__(self) -> str:
        return f"{self.kind} of {self.name}"

    def roundings(self, gm: GraphModule) -> list[Node]:
        """The calls that round it in a fake-quantized graph."""
        calls = gm.graph.find_nodes(op="call_function", target=qpc_ops.fake_quantize.default)
        names = set(self.nodes)
        if self.kind == "activations":
            return [n for n in calls if n.args[0].name in names and source_parameter(n) is None]
        return [n for n in calls if source_parameter(n) and any(u.name in names for u in n.users)]


def parts_of(gm: GraphModule, plan: QuantizationPlan) -> tuple[Part, ...]:
    """The parts of a graph under a plan, in the order of the graph: weights, then values."""
    layers = [n for n in gm.graph.nodes if n in plan.integer and float_layer(n) is not None]
    weights = _joined(layers, lambda n: (plan.places[n], _weight_key(gm, n)))
    carriers = [n for n in gm.graph.nodes if n in plan.owners]
    values = _joined(carriers, lambda n: (plan.places[plan.owners[n]],))
    return (
        *_named("weights", weights, plan, {n: [n] for n in layers}, _counts(gm, weights)),
        *_named("activations", values, plan, _readings(gm, plan), {}),
    )


def _weight_key(gm: GraphModule, node: Node) -> Hashable:
    layer = float_layer(node)
    assert layer is not None
    source = source_parameter(layer.weight)
    return node if source is None else id(attribute(gm, str(source.target)))


def _counts(gm: GraphModule, groups: Iterable[Sequence[Node]]) -> dict[Node, int]:
    """The number of weights of each group, under its first layer; shared ones count once."""
    counts = {}
    for group in groups:
        sizes = {}
        for node in group:
            layer = float_layer(node)
            assert layer is not None
            sizes[_weight_key(gm, node)] = attribute(gm, str(layer.weight.target)).numel()
        counts[group[0]] = sum(sizes.values())
    return counts


def _readings(gm: GraphModule, plan: QuantizationPlan) -> dict[Node, list[Node]]:
    """For each carrier the values that may be rounded to its grid."""
    found: dict[Node, list[Node]] = {}
    for node in gm.graph.nodes:
        if node in plan.carrier:
            found.setdefault(plan.carrier[node], []).append(node)
    return found


def _joined(nodes: Sequence[Node], keys: object) -> list[list[Node]]:
    """Nodes that have a key in common, directly or through others, in order."""
    assert callable(keys)
    graph: nx.Graph[Hashable] = nx.Graph()
    for node in nodes:
        graph.add_edges_from((node, ("key", key)) for key in keys(node))
    place = {node: i for i, node in enumerate(nodes)}
    groups = [
        sorted((n for n in component if isinstance(n, Node)), key=place.__getitem__)
        for component in nx.connected_components(graph)
    ]
    return sorted(groups, key=lambda group: place[group[0]])


def _named(
    kind: PartKind,
    groups: Sequence[Sequence[Node]],
    plan: QuantizationPlan,
    nodes: Mapping[Node, Sequence[Node]],
    weights: Mapping[Node, int],
) -> list[Part]:
    sites = [
        tuple(dict.fromkeys(plan.places[plan.owners[n] if kind == "activations" else n] for n in g))
        for g in groups
    ]
    plain = Counter(_plain_name(found[0]) for found in sites)
    parts = []
    for group, found in zip(groups, sites, strict=True):
        name = _plain_name(found[0])
        if plain[name] > 1:
            name = label(plan.owners[group[0]] if kind == "activations" else group[0])
        names = tuple(n.name for member in group for n in nodes[member])
        parts.append(Part(kind, name, found, names, weights.get(group[0], 0)))
    return parts


def _plain_name(site: Site) -> str:
    return site.module or site.op


# --- configurations -------------------------------------------------------------------------------


def configuration(
    base: QuantConfig, plan: QuantizationPlan, bits: Mapping[Part, int]
) -> QuantConfig:
    """The configuration `base` with other bits for some parts; `plan` is that of `base`."""
    wanted: dict[Site, LayerConfig | None] = {
        site: base.resolve(module=site.module, op=site.op, position=site.position)
        for site in plan.sites
    }
    for part, count in bits.items():
        for site in part.sites:
            settings = wanted[site]
            if settings is None:
                continue
            field = "weight" if part.kind == "weights" else "activation"
            changed = getattr(settings, field).model_copy(update={"bits": count})
            wanted[site] = settings.model_copy(update={field: changed})
    made = base
    # What selects more comes first, since the last override that selects a site wins.
    for site in sorted(wanted, key=lambda s: (s.module != "", s.position is not None)):
        if made.resolve(module=site.module, op=site.op, position=site.position) != wanted[site]:
            override = Override(
                pattern=escape(site.module) or None,
                op=site.op,
                position=site.position,  # type: ignore[arg-type]  # sites come from these words
                use=wanted[site] or "float",
            )
            made = made.model_copy(update={"overrides": (*made.overrides, override)})
    return made

"""`qpc.explain`: each layer's time, limit and own error, and why it is as it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

import networkx as nx
from torch.fx import GraphModule, Node

from qpc.backends.profile import Profile
from qpc.batches import Batch, checked_batches, inputs_of
from qpc.calls import is_shape_arithmetic, qpc_ops
from qpc.effort import tidying
from qpc.errors import PassError
from qpc.explanation.changes import Island, changes_of, kept_in_float
from qpc.explanation.inspection import (
    Form,
    Inspection,
    LayerFacts,
    in_integers,
    inspect_graph,
    stage_of,
)
from qpc.explanation.own_errors import MOST_MACS, Errors, own_errors
from qpc.explanation.result import Explanation, LayerExplained
from qpc.explanation.times import NodeTime, float_times, in_float, times_of
from qpc.facts import require_graph
from qpc.layers import any_layer
from qpc.meta import info, label, value_name
from qpc.modes import ordinary_torch
from qpc.pipeline import Pipeline
from qpc.recipes import convert
from qpc.registry import Role, op_name, role_of

if TYPE_CHECKING:
    from qpc.backends.tvm.runtime.model import CompiledModel

_QUANTIZE, _DEQUANTIZE = qpc_ops.quantize.default, qpc_ops.dequantize.default
_FUSED = frozenset({"add", "clamp", "lookup"})
"""Operators that a layer can do to its results before it stores them."""


@ordinary_torch()
def explain(
    reference: GraphModule,
    gm: GraphModule,
    batches: Iterable[Batch],
    *,
    compiled: CompiledModel | None = None,
    profile: Profile | None = None,
    float_time: bool = True,
    most: int = 3,
    most_macs: float = MOST_MACS,
    told: Callable[[int, int], None] = lambda done, total: None,
    inspected: tuple[Inspection, Inspection] | None = None,
) -> Explanation:
    """Why a compressed model is as slow and as wrong as it is, layer by layer.

    reference: the traced float graph that it was made from. gm: the integer graph, or a rounded
    one, which is converted. batches: any iterable of batches as `qpc.compare` takes them, on which
    errors are measured: few samples will do. compiled: the compiled model, to be profiled on random
    inputs; profile: or a profile of it. Times are unknown without. float_time: whether to time the
    float graph in PyTorch, too. most: how many changes to name. most_macs: for own errors, the rest
    of the float graph is run behind every operator; of a large one only for so many samples as
    these multiplications allow, at least one (`own_samples`). told: how many steps are done, of how
    many. inspected: what `inspect_graph` finds in the float graph and in the integer one, if that
    is known.

    An operator's *own* error is that of the outputs with this operator quantized and everything
    else in float; the errors of `qpc.compare` add up on the way. Raises PassError if the graphs are
    not stages of one model, or there are no batches.
    """
    require_graph(reference, "explain")
    integer = _integer_stage(gm)
    given = list(checked_batches(batches, "explain"))
    errors = own_errors(reference, integer, given, most_macs=most_macs, told=told)
    if profile is None and compiled is not None:
        profile = compiled.profile()
    times = {} if profile is None else times_of(profile, integer)
    slow = _float_times(reference, integer, given, profile) if float_time else {}
    before, after = inspected or (inspect_graph(reference), inspect_graph(integer))
    rows = _rows(integer, errors, times, slow, profile, before.layers, after.layers)
    prunable = {row.node: not row.why_whole for row in rows if row.macs}
    total = None if profile is None else profile.total_us
    islands = _islands(integer, {row.node: row for row in rows}, times)
    known = 0.0 if profile is None else sum(t.us for t in times.values())
    return Explanation(
        layers=rows,
        changes=changes_of(rows, islands, errors, total, prunable, most, _borders(integer)),
        noise=errors.noise,
        varying=errors.varying,
        samples=errors.samples,
        own_samples=errors.own_samples,
        total_us=total,
        other_us=None if total is None else max(total - known, 0.0),
        batch=None if profile is None else profile.batch,
        threads=None if profile is None else profile.threads,
        target="" if compiled is None else compiled.target.name,
    )


def _integer_stage(gm: GraphModule) -> GraphModule:
    """The integer graph that a quantized one is, or becomes."""
    require_graph(gm, "explain")
    stage = stage_of(gm)
    if stage == "float":
        raise PassError(
            "explain needs a quantized graph, and this one is in float",
            fix="qpc.quantize(gm, batches), and pass both graphs",
        )
    return convert(gm) if stage == "rounded" else gm


# --- rows -----------------------------------------------------------------------------------------


def _rows(
    gm: GraphModule,
    errors: Errors,
    times: Mapping[Node, NodeTime],
    slow: Mapping[Node, float],
    profile: Profile | None,
    before: tuple[LayerFacts, ...],
    after: tuple[LayerFacts, ...],
) -> tuple[LayerExplained, ...]:
    whole = {f.module: f.why_whole for f in before if f.macs and f.group is not None}
    own = {f.node: f for f in after}
    by_node = {e.node: e for e in errors.operators}
    bits = {f.module: f.weight_bits for f in own.values()}
    rows = []
    for node in gm.graph.nodes:
        if node.op != "call_function" or is_shape_arithmetic(node):
            continue
        error, time = by_node.get(node.name), times.get(node)
        fact = own.get(node.name)
        if error is None and fact is None and time is None:
            continue
        about = info(node)
        form = _form(node)
        total = profile.total_us if profile is not None else 0.0
        rows.append(
            LayerExplained(
                name=label(node),
                node=node.name,
                module=about.module_path,
                operator=op_name(node),
                macs=0 if fact is None else fact.macs,
                weight_bits=bits.get(about.module_path) if any_layer(node) else None,
                form=form,
                us=None if time is None else time.us,
                share=None if time is None or not total else time.us / total,
                limit=None if time is None else time.limit,
                of_limit=None if time is None else time.of_limit,
                float_us=slow.get(node),
                inside="" if time is None else time.inside,
                noise=errors.together.get(value_name(node) or ""),
                own_noise=None if error is None else error.noise,
                local_noise=None if error is None else error.local_noise,
                gain=1.0 if error is None else error.gain,
                clipped=0.0 if error is None else error.clipped,
                reach=0.0 if error is None else error.reach,
                used=1.0 if error is None else error.used,
                span=None if error is None else error.span,
                why_float=_why_float(node) if form == "float" else "",
                why_whole=whole.get(about.module_path, "") if any_layer(node) else "",
                why_alone=_why_alone(node, time),
            )
        )
    return tuple(rows)


def _form(node: Node) -> Form:
    if role_of(node) is Role.STORED:
        return "stored"
    dtype = info(node).dtype
    bridge = node.target in (_QUANTIZE, _DEQUANTIZE)
    floating = dtype is not None and dtype.is_floating_point
    return "float" if floating and not bridge and not in_integers(node) else "integer"


def _why_float(node: Node) -> str:
    return info(node).declined or "it was made in float"


def _why_alone(node: Node, time: NodeTime | None) -> str:
    """Why a layer does not do an operator on its way, that layers can do; empty if one does."""
    if time is None or time.inside or not time.us or op_name(node) not in _FUSED:
        return ""
    sources = [n for n in node.all_input_nodes if n.op != "get_attr"]
    layers = [n for n in sources if any_layer(n) is not None]
    if not layers:
        return "no convolution or linear layer makes what it reads"
    read = [n for n in layers if len(n.users) > 1]
    if len(read) == len(layers):
        return f"{label(read[0])} is read by {len(read[0].users)} operators"
    return "its operands differ in shape, or the layer before does other operators already"


def _borders(gm: GraphModule) -> dict[str, str]:
    """What can be done about the rounding of values that are in float before, by node."""
    found = {}
    for node in gm.graph.nodes:
        if node.target is not _QUANTIZE or node.all_input_nodes[0].op == "placeholder":
            continue
        if all(op_name(reader).startswith("linear") for reader in node.users):
            found[node.name] = (
                "let each row have a range of its own when the model runs: `qpc quantize` with"
                " --mode dynamic"
            )
        elif module := next((m for n in node.users if (m := info(n).module_path)), ""):
            found[node.name] = f"keep what reads it in float: {kept_in_float(module)}"
    return found


# --- times ----------------------------------------------------------------------------------------


def _float_times(
    reference: GraphModule, gm: GraphModule, batches: list[Batch], profile: Profile | None
) -> dict[Node, float]:
    """Microseconds in PyTorch of what each operator of the integer graph does, in float."""
    tidy = Pipeline(tidying()).run(reference)
    inputs = inputs_of(tidy, batches[0], 0)
    count = 1 if profile is None else profile.batch
    inputs = [x[:count] if x.dim() else x for x in inputs]
    times = float_times(tidy, inputs, threads=1 if profile is None else profile.threads)
    values = {n: node for node in tidy.graph.nodes if (n := value_name(node)) is not None}
    found = {}
    for node in gm.graph.nodes:
        if node.op != "call_function" or node.target in (_QUANTIZE, _DEQUANTIZE):
            continue
        us = in_float(node, values, times)
        if us is not None:
            found[node] = us
    return found


def _islands(
    gm: GraphModule, rows: Mapping[str, LayerExplained], times: Mapping[Node, NodeTime]
) -> list[Island]:
    """Float operators that hang together, with what leads to them and away."""
    graph: nx.Graph[Node] = nx.Graph()
    for node in gm.graph.nodes:
        if node.name in rows and rows[node.name].form == "float":
            graph.add_node(node)
            graph.add_edges_from((node, n) for n in node.all_input_nodes if n in graph)
    found = []
    place = {node: i for i, node in enumerate(gm.graph.nodes)}
    for component in nx.connected_components(graph):
        members = sorted(component, key=place.__getitem__)
        roots = [n for n in members if not info(n).declined.startswith("its input")] or members
        root = max(roots, key=lambda n: (times.get(n, NodeTime()).us, -place[n]))
        beside = {b for n in members for b in (*n.all_input_nodes, *n.users)}
        bridges = [
            times[b].us for b in beside if b.target in (_QUANTIZE, _DEQUANTIZE) and b in times
        ]
        found.append(Island(rows[root.name], tuple(rows[n.name] for n in members), sum(bridges)))
    return found

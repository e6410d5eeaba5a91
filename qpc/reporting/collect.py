"""From graphs, a compiled model and what was found out about them to a report's data."""

from __future__ import annotations

import math
import os
import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import torch
from torch.fx import GraphModule

from qpc.backends.profile import Profile
from qpc.batches import Batch, checked_batches
from qpc.calls import is_shape_arithmetic
from qpc.explanation.evaluation import Score
from qpc.explanation.explain import explain
from qpc.explanation.inspection import Inspection, in_integers, inspect_graph, stage_of
from qpc.explanation.own_errors import MOST_MACS
from qpc.explanation.result import Explanation, LayerExplained
from qpc.hashing import fingerprint
from qpc.meta import info, label
from qpc.modes import ordinary_torch
from qpc.printer import format_type
from qpc.recipes import convert
from qpc.registry import Role, op_name, role_of
from qpc.reporting.data import (
    Accuracy,
    Advice,
    Candidate,
    GraphNode,
    Group,
    Layer,
    Report,
    Run,
    Size,
    Summary,
)
from qpc.reporting.histograms import histograms, stored_weight
from qpc.version import VERSION

if TYPE_CHECKING:
    from qpc.backends.tvm.runtime.model import CompiledModel

_COSTS = ("macs", "parameters", "bytes", "latency_ms")
_FROM_EXPLAINED = frozenset(Layer.model_fields) - {"shape", "sparsity", "group"}


@ordinary_torch()
def report_of(
    reference: GraphModule,
    gm: GraphModule,
    batches: Iterable[Batch],
    *,
    compiled: CompiledModel | None = None,
    profile: Profile | None = None,
    scores: Sequence[Score] = (),
    run: Mapping[str, Any] | None = None,
    settings: str = "",
    title: str = "model",
    notes: Sequence[str] = (),
    most_macs: float = MOST_MACS,
    told: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    """All that a report says about a compressed model.

    reference, gm, batches, compiled, profile, most_macs, told: as `qpc.explain` takes them.
    scores: of `qpc.explanation.evaluation.evaluate`. run: of a compression,
    `CompressResult.plain()` or the `result.json` in its folder. settings: how the model was made,
    as YAML. title: what the model is called. notes: what could not be found out.

    Raises PassError as `qpc.explain` does.
    """
    given = list(checked_batches(batches, "a report"))
    integer = convert(gm) if stage_of(gm) == "rounded" else gm
    before, after = inspect_graph(reference), inspect_graph(integer)
    found = explain(  # which refuses what is no pair of graphs
        reference, integer, given, compiled=compiled, profile=profile, most_macs=most_macs,
        told=told, inspected=(before, after),
    )  # fmt: skip
    summary = Summary(
        before=_size(reference, before, _float_us(found)),
        after=_size(integer, after, found.total_us),
        noise=_finite(found.noise),
        samples=found.samples,
        accuracy=tuple(_accuracy(score) for score in scores),
        batch=found.batch, threads=found.threads, target=found.target, other_us=found.other_us,
        environment=environment(), settings=settings,
    )  # fmt: skip
    return Report(
        qpc=VERSION,
        title=title,
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        summary=summary,
        changes=tuple(Advice(**asdict(change)) for change in found.changes),
        layers=_layers(integer, found, before),
        graph=_nodes(integer),
        histograms=histograms(reference, integer, given, _spans(found)),
        groups=tuple(Group(**asdict(group)) for group in before.channels),
        run=None if run is None else _run(run),
        notes=(*notes, *filter(None, (found.sampled,))),
    )


def environment() -> dict[str, str]:
    """What a report was made with, by name."""
    return {
        "QPC": VERSION,
        "PyTorch": torch.__version__,
        "Python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "CPU": _cpu_model(),
        "cores": str(os.cpu_count()),
    }


def _cpu_model() -> str:
    """The name of the CPU; its architecture where the system does not tell."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as lines:
            named = next((line for line in lines if line.startswith("model name")), "")
    except OSError:
        named = ""
    return named.partition(":")[2].strip() or platform.machine()


# --- parts ----------------------------------------------------------------------------------------


def _size(gm: GraphModule, facts: Inspection, us: float | None) -> Size:
    return Size(
        parameters=facts.parameters,
        macs=facts.macs,
        bytes=facts.tensor_bytes,
        us=us,
        fingerprint=fingerprint(gm),
    )


def _float_us(found: Explanation) -> float | None:
    """What the operators take in float, all together; None unless they are timed in both."""
    times = [row.float_us for row in found.layers if row.float_us is not None]
    return sum(times) if times and found.total_us is not None else None


def _accuracy(score: Score) -> Accuracy:
    wanted = Accuracy.model_fields
    return Accuracy(**{k: v for k, v in asdict(score).items() if k in wanted})


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _spans(found: Explanation) -> dict[str, tuple[float, float]]:
    """Between what the values of each operator lie, by its node."""
    return {row.node: row.span for row in found.layers if row.span is not None}


def _layers(gm: GraphModule, found: Explanation, before: Inspection) -> tuple[Layer, ...]:
    nodes = {node.name: node for node in gm.graph.nodes}
    groups = {fact.module: fact.group for fact in before.layers if fact.group is not None}
    return tuple(_layer(row, gm, nodes[row.node], groups) for row in found.layers)


def _layer(
    row: LayerExplained,
    gm: GraphModule,
    node: torch.fx.Node,
    groups: Mapping[str, int | None],
) -> Layer:
    weight = stored_weight(gm, node)
    known = {k: v for k, v in asdict(row).items() if k in _FROM_EXPLAINED}
    known |= {k: _finite(known[k]) for k in ("noise", "own_noise", "local_noise")}
    about = info(node)
    empty = weight is None or not weight.numel()
    return Layer(
        **known,
        shape=format_type(about.shape, about.dtype),
        sparsity=None if empty or weight is None else float((weight == 0).float().mean()),
        group=None if weight is None else groups.get(row.module),
    )


def _nodes(gm: GraphModule) -> tuple[GraphNode, ...]:
    """The graph without weights, and without arithmetic on sizes."""
    kept = {
        node: node.name
        for node in gm.graph.nodes
        if node.op in ("placeholder", "output")
        or (node.op == "call_function" and not is_shape_arithmetic(node))
    }
    return tuple(
        GraphNode(
            node=name,
            label=label(node) if node.op == "call_function" else name,
            operator=op_name(node) if node.op == "call_function" else node.op,
            form=_form(node),
            inputs=tuple(kept[n] for n in node.all_input_nodes if n in kept),
        )
        for node, name in kept.items()
    )


def _form(node: torch.fx.Node) -> Any:
    if node.op == "call_function" and role_of(node) is Role.STORED:
        return "stored"
    dtype = info(node).dtype
    floating = dtype is not None and dtype.is_floating_point
    return "float" if floating and not in_integers(node) else "integer"


def _run(data: Mapping[str, Any]) -> Run:
    """A compression run as `CompressResult.plain` tells it."""
    return Run(
        metric=data["metric"],
        limit=data["limit"],
        candidates=tuple(
            Candidate(
                name=row["name"],
                metric=row["metric"],
                costs={name: row[name] for name in _COSTS if row.get(name) is not None},
                pareto=tuple(row["pareto"]),
                best=row["name"] == data["best"],
            )
            for row in data["models"]
        ),
    )

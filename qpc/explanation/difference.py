"""What differs between two models: layers, grids, sizes, outputs, latency."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule

from qpc.backends.compiled import CallableModel
from qpc.explanation.evaluation import Part, Score, evaluate
from qpc.explanation.inspection import LayerFacts, inspect_graph
from qpc.meta import info
from qpc.modes import ordinary_torch
from qpc.terminal.plain import plain

_ROUNDS, _WARM = 20, 3
_COMPARED = ("operator", "shape", "parameters", "macs", "weight_bits", "form")


@dataclass(frozen=True)
class LayerDifference:
    """One layer that is in one model only, or differs.

    what: for each property that differs its value in the first and in the second model; "layer" for
    one that is missing in one of them.
    """

    name: str
    what: Mapping[str, tuple[Any, Any]]

    def __str__(self) -> str:
        parts = [f"{key} {_shown(a)} -> {_shown(b)}" for key, (a, b) in self.what.items()]
        return f"{self.name}: {', '.join(parts)}"


@dataclass(frozen=True)
class Difference:
    """What differs between two models.

    layers: those that differ, in the order of the first model. same: how many do not.
    totals: parameters, macs and tensor_bytes of both. score: the second's outputs against those of
    the first; None if they were not run. latency_ms: of a call of both, when compiled; None if not
    both are.
    """

    layers: tuple[LayerDifference, ...]
    same: int
    totals: Mapping[str, tuple[int, int]]
    score: Score | None = None
    latency_ms: tuple[float, float] | None = None

    @property
    def equal(self) -> bool:
        """Whether nothing differs that was looked at, times aside."""
        outputs = self.score is None or self.score.differing == 0
        return not self.layers and outputs and all(a == b for a, b in self.totals.values())

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON values."""
        data = plain(self)
        assert isinstance(data, dict)
        return {"equal": self.equal, **data}

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        for layer in self.layers:
            yield str(layer)
        yield f"{len(self.layers)} layers differ, {self.same} do not"
        for name, (a, b) in self.totals.items():
            ratio = f" ({b / a:.1%})" if a and a != b else ""
            yield f"{name.replace('_', ' ')}: {a:,} -> {b:,}{ratio}"
        if self.score is not None:
            agree = self.score.agreement
            yield (
                f"outputs on {self.score.samples} samples: {self.score.differing:,} values differ,"
                f" {self.score.sqnr_db:.1f} dB"
                + ("" if agree is None else f", the same class for {agree:.1%}")
            )
        if self.latency_ms is not None:
            old, new = self.latency_ms
            yield f"latency: {old:.3f} ms -> {new:.3f} ms ({new / old:.2f})"


@ordinary_torch()
def difference(
    first: GraphModule | None,
    second: GraphModule | None,
    *,
    parts: Iterable[Part] | None = None,
    runs: tuple[GraphModule | CallableModel, GraphModule | CallableModel] | None = None,
    compiled: tuple[CallableModel, CallableModel] | None = None,
) -> Difference:
    """Compare two models.

    first, second: their graphs; layers are matched by their modules. parts: samples to compare
    outputs on, of `runs`, or of the graphs without. compiled: both as machine code, whose calls are
    timed in turns.

    Raises BackendError if the outputs have different shapes, and what the models raise.
    """
    layers: tuple[LayerDifference, ...] = ()
    same, totals = 0, {}
    if first is not None and second is not None:
        a, b = inspect_graph(first), inspect_graph(second)
        layers, same = _layers(_described(first, a.layers), _described(second, b.layers))
        totals = {
            name: (getattr(a, name), getattr(b, name))
            for name in ("parameters", "macs", "tensor_bytes")
        }
    both = runs or (None if first is None or second is None else (first, second))
    score = None
    if parts is not None and both is not None:
        score = evaluate({"first": both[0], "second": both[1]}, parts)[1]
    times = None if compiled is None else _latency(compiled)
    return Difference(layers, same, totals, score, times)


_Described = Mapping[str, Mapping[str, Any]]


def _described(gm: GraphModule, layers: Sequence[LayerFacts]) -> _Described:
    """What is compared of each layer, by module and number within it."""
    nodes = {node.name: node for node in gm.graph.nodes}
    found: dict[str, dict[str, Any]] = {}
    counts: dict[str, int] = {}
    for layer in layers:
        name = layer.module or layer.operator
        counts[name] = counts.get(name, 0) + 1
        key = name if counts[name] == 1 else f"{name}#{counts[name]}"
        grid = info(nodes[layer.node]).qparams if layer.node in nodes else None
        found[key] = {field: getattr(layer, field) for field in _COMPARED}
        found[key]["grid"] = (
            None if grid is None else f"scale {grid.scale:.6g}, zero {grid.zero_point}"
        )
    return found


def _layers(a: _Described, b: _Described) -> tuple[tuple[LayerDifference, ...], int]:
    rows, same = [], 0
    for name in dict.fromkeys((*a, *b)):
        if name not in a or name not in b:
            rows.append(LayerDifference(name, {"layer": (name in a, name in b)}))
            continue
        what = {k: (a[name][k], b[name][k]) for k in a[name] if a[name][k] != b[name][k]}
        if what:
            rows.append(LayerDifference(name, what))
        else:
            same += 1
    return tuple(rows), same


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "there" if value else "missing"
    return "none" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def _latency(compiled: tuple[CallableModel, CallableModel]) -> tuple[float, float]:
    """The median time of a call of both, in turns, at a batch size that both take."""
    sizes = [n for n in compiled[0].batch_sizes if n in compiled[1].batch_sizes]
    if not sizes:
        sizes = [compiled[0].batch_sizes[0]]
    calls = [_call(model, sizes[0]) for model in compiled]
    times: list[list[float]] = [[], []]
    for number in range(_ROUNDS + _WARM):
        for call, found in zip(calls, times, strict=True):
            start = time.perf_counter()
            call()
            if number >= _WARM:
                found.append((time.perf_counter() - start) * 1e3)
    return statistics.median(times[0]), statistics.median(times[1])


def _call(model: CallableModel, batch: int) -> Callable[[], object]:
    types = model.signature.inputs.get(batch) or next(iter(model.signature.inputs.values()))
    inputs: list[Tensor] = [torch.zeros(t.shape, dtype=t.dtype) for t in types]
    return lambda: model(*inputs)

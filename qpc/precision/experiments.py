"""What is tried on a model, one thing at a time: the jobs of `qpc.sensitivity`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import SupportsFloat, cast

import safetensors.torch
import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from qpc.base import PassContext
from qpc.channels.groups import analyze_channels
from qpc.errors import ConfigError
from qpc.facts import CALIBRATED, CORE_FORM, OBSERVED
from qpc.meta import copied, info, label, update_info
from qpc.modes import ordinary_torch
from qpc.parallel.work import Plain
from qpc.passes import FakeQuantize
from qpc.pipeline import Pipeline
from qpc.precision.partial_runs import (
    NoiseSums,
    only_rounded,
    output_noise,
    require_finite,
    tensors_of,
)
from qpc.precision.parts import Part
from qpc.pruning.allocation import Allocation
from qpc.pruning.criteria import Judge
from qpc.pruning.scored_groups import ScoredGroup, score_groups
from qpc.recipes import prune
from qpc.storage import graph_files, graph_of_files

Evaluate = Callable[[GraphModule], float]
"""A metric of the user's: how good a model is."""
Inputs = Sequence[Sequence[Tensor]]
"""For each batch the inputs of the graph."""


@dataclass(frozen=True)
class Group:
    """Channels that must be pruned together: the index of the group, and the layers that make them.

    units: how many there are; removable: how many of them may go, so that one stays.
    """

    index: int
    layers: tuple[str, ...]
    units: int
    removable: int

    def removed(self, share: float) -> int:
        """How many go, of a share that may be too great."""
        return min(round(share * self.units), self.removable)

    def __str__(self) -> str:
        return f"channels of {' and '.join(self.layers)}"


@dataclass(frozen=True)
class _OneGroup(Allocation):
    """A share of one group of channels; the others stay."""

    index: int = 0

    def wanted(self, groups: Sequence[ScoredGroup], share: float) -> list[int]:
        return [round(share * g.units) if g.group.index == self.index else 0 for g in groups]


def groups_of(gm: GraphModule, criterion: Judge) -> tuple[Group, ...]:
    """The groups of a graph of which something may go."""
    found = score_groups(gm, analyze_channels(gm), criterion)
    return tuple(
        Group(
            scored.group.index,
            tuple(dict.fromkeys(info(n).module_path or label(n) for n in scored.layers)),
            scored.units,
            min(len(scored.order), scored.units - 1),
        )
        for scored in found
        if scored.order
    )


class _Quiet(PassContext):
    """Does not warn: grids of few bits are tried here that nobody will use."""

    def warn(self, node: Node | str, what: str) -> None:
        """Say nothing."""


@dataclass(frozen=True)
class Experiments:
    """A model and the data it is tried on; what is called for each job.

    gm: the traced graph. observed: what `prepare` and `Calibrate` made of it. An argument names a
    part or a group by its place, and the bits or shares to try; none for the graph in float.
    """

    gm: GraphModule
    observed: GraphModule
    inputs: Inputs
    parts: tuple[Part, ...]
    groups: tuple[Group, ...]
    criterion: Judge
    evaluate: Evaluate | None

    @ordinary_torch()
    def __call__(self, argument: Plain) -> Plain:
        """The result of one job: for each amount the noise (None for inf) and the metric."""
        about = cast(dict[str, Plain], argument)
        amounts, place = cast(list[float], about["amounts"]), cast(int, about["place"])
        if not amounts:
            return [[0.0, self._metric(copied(self.gm))]]
        if about["kind"] == "channels":
            return [self._pruned(self.groups[place], share) for share in amounts]
        return self._rounded(self.parts[place], [int(bits) for bits in amounts])

    def __reduce__(self) -> tuple[Callable[..., Experiments], tuple[object, ...]]:
        graphs = graph_files(self.gm), graph_files(self.observed)
        data = {f"{i}.{j}": t for i, b in enumerate(self.inputs) for j, t in enumerate(b)}
        tensors = {name: t.detach().cpu().clone().contiguous() for name, t in data.items()}
        rest = (self.parts, self.groups, self.criterion, self.evaluate)
        shape = [len(batch) for batch in self.inputs]
        return _received, (*graphs, safetensors.torch.save(tensors), shape, *rest)

    def _rounded(self, part: Part, bits: Sequence[int]) -> Plain:
        graphs = [self._at(count) for count in bits]
        noise = output_noise(self.inputs, graphs, part.roundings)
        metrics = [self._metric_of(gm, part) for gm in graphs]
        return [[_plain(n), m] for n, m in zip(noise, metrics, strict=True)]

    def _metric_of(self, gm: GraphModule, part: Part) -> float | None:
        return None if self.evaluate is None else self._metric(only_rounded(gm, part.roundings(gm)))

    def _at(self, bits: int) -> GraphModule:
        """The graph with all values and weights rounded to grids of some bits; kept for others."""
        cache: dict[int, GraphModule] = self.__dict__.setdefault("_graphs", {})
        if bits not in cache:
            cache[bits] = with_grids(self.observed, bits)
        return cache[bits]

    def _pruned(self, group: Group, share: float) -> Plain:
        amount = group.removed(share) / group.units
        smaller = prune(self.gm, self.criterion, _OneGroup(amount, index=group.index), ctx=_Quiet())
        noise = NoiseSums()
        with torch.no_grad():
            for number, inputs in enumerate(self.inputs):
                exact = tensors_of(self.gm(*inputs))
                require_finite(exact, number)
                noise.add(exact, tensors_of(smaller(*inputs)))
        return [_plain(noise.ratio()), self._metric(smaller)]

    def _metric(self, gm: GraphModule) -> float | None:
        if self.evaluate is None:
            return None
        return checked_metric(self.evaluate(gm))


def with_grids(observed: GraphModule, bits: int) -> GraphModule:
    """A calibrated graph, fake-quantized with the same number of bits everywhere."""
    gm = copied(observed)
    for node in gm.graph.nodes:
        if (config := info(node).config) is not None:
            activation = config.activation.model_copy(update={"bits": bits})
            weight = config.weight.model_copy(update={"bits": bits})
            changed = config.model_copy(update={"activation": activation, "weight": weight})
            update_info(node, config=changed)
    assume = frozenset({CORE_FORM, OBSERVED, CALIBRATED})
    return Pipeline((FakeQuantize(),), assume).run(gm, _Quiet())


def checked_metric(value: object) -> float:
    """What `evaluate` returned. Raises ConfigError unless it is a finite number."""
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    found = math.nan
    if isinstance(value, SupportsFloat) and not isinstance(value, bool | Tensor):
        found = float(value)
    if not math.isfinite(found):
        shown = repr(value) if isinstance(value, float | bool) else type(value).__name__
        raise ConfigError(
            f"evaluate must return a finite number, got {shown}",
            fix="return a measure of how good the model is, such as its accuracy",
        )
    return found


def _plain(noise: float) -> float | None:
    return noise if math.isfinite(noise) else None


def _received(
    gm: dict[str, bytes],
    observed: dict[str, bytes],
    data: bytes,
    shape: Sequence[int],
    *rest: object,
) -> Experiments:
    """What another process was sent."""
    tensors = safetensors.torch.load(data)
    inputs = [[tensors[f"{i}.{j}"] for j in range(count)] for i, count in enumerate(shape)]
    graphs = graph_of_files(gm, "the graph"), graph_of_files(observed, "the calibrated graph")
    return Experiments(*graphs, inputs, *rest)  # type: ignore[arg-type]  # as __reduce__ gave them

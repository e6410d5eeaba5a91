"""`qpc.sensitivity`: what fewer bits and fewer channels of each layer do to the output."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch.fx import GraphModule

from qpc.analysis.quantization import QuantizationPlan, plan_quantization
from qpc.base import PassContext
from qpc.batches import Batch, checked_batches, inputs_of
from qpc.callbacks.protocol import Callback, checked_callbacks
from qpc.effort import tidying
from qpc.errors import CalibrationError, ConfigError
from qpc.facts import require_graph
from qpc.hashing import fingerprint
from qpc.modes import ordinary_torch
from qpc.parallel.journal import Journal
from qpc.parallel.processes import processes
from qpc.parallel.run import Told, run_jobs
from qpc.parallel.work import Executor, Plain
from qpc.passes import Calibrate, InsertObservers
from qpc.pipeline import Pipeline
from qpc.precision.experiments import Evaluate, Experiments, Group, Inputs, groups_of
from qpc.precision.parts import Part, parts_of
from qpc.precision.result import Effect, EffectKind, Sensitivity, worst_first
from qpc.pruning.criteria import Judge
from qpc.pruning.magnitude import L1
from qpc.quant.config import QuantConfig
from qpc.settings import require_count, require_kind, require_number


@ordinary_torch()
def sensitivity(
    gm: GraphModule,
    batches: Iterable[Batch],
    *,
    evaluate: Evaluate | None = None,
    bits: Sequence[int] = (8, 6, 4),
    fewer_channels: Sequence[float] = (0.25,),
    config: QuantConfig | None = None,
    criterion: Judge | None = None,
    folder: str | os.PathLike[str] | None = None,
    workers: int = 1,
    executor: Executor | None = None,
    progress: bool | Told = False,
    callbacks: Sequence[Callback] = (),
) -> Sensitivity:
    """What each layer of a traced float graph does to the output when it is reduced, and no other.

    The weights of every layer and every grid of values are rounded to each of `bits`, and every
    group of channels loses each share of `fewer_channels`, one at a time, everything else in float.
    The effect is the noise of the output over all batches, and the user's metric.

    batches: any iterable of batches as `qpc.passes.Calibrate` takes them, to calibrate and to
    compare on; read once, and kept in memory.
    evaluate: says of a model, a GraphModule in float32, how good it is: a finite number.
    config: observers and the like, and what stays in float; its bits do not matter.
    criterion: which channels go first; `L1()` by default.
    folder: where results are kept as soon as they are known, so that the same call goes on after an
    interruption; made if it is not there.
    workers: in how many processes to work, each with one thread; executor: or where else, see
    `qpc.parallel`.
    progress: show a progress bar, or a function that is told how many jobs are done, of how many.
    callbacks: are told of each part of the model when it is done: "weights at 4 bits/sqnr_db" and
    the like, and "/metric" with `evaluate`, at the step that is the part's place in the model.

    Raises ConfigError for settings that are not allowed and an `evaluate` that returns no finite
    number, CalibrationError for batches that do not fit or outputs that are not finite, PassError
    if no layer can be quantized, ArtifactError for a folder about something else, JobError if jobs
    keep failing.
    """
    require_graph(gm, "sensitivity")
    config, criterion = config or QuantConfig(), criterion or L1()
    _check_settings(bits, fewer_channels, workers, config, criterion)
    inputs = gathered(gm, batches)
    prepared = prepare_parts(gm, inputs, config, progress=progress is True)
    parts, groups = prepared.parts, groups_of(gm, criterion) if fewer_channels else ()
    experiments = Experiments(gm, prepared.observed, inputs, parts, groups, criterion, evaluate)
    jobs = _jobs(parts, bits, groups, fewer_channels)
    subject = _subject(experiments, config)
    watchers = checked_callbacks(callbacks)
    asked = {"bits": list(bits), "fewer_channels": list(fewer_channels), **subject}
    with watchers.watching("sensitivity", asked):
        results = run_jobs(
            experiments,
            {name: job.argument for name, job in jobs.items()},
            executor=executor or processes(workers),
            journal=None if folder is None else Journal.open(folder, subject),
            progress="sensitivity" if progress is True else progress or None,
            each=watchers.of_jobs(len(jobs), lambda name, result: jobs[name].told(result)),
        )
    return _result(jobs, results, subject["graph"])


def _result(jobs: Mapping[str, _Job], results: Mapping[str, Plain], graph: str) -> Sensitivity:
    (_, metric), *_ = cast(list[list[float | None]], results[_FLOAT])
    effects = [e for name in results if name != _FLOAT for e in jobs[name].effects(results[name])]
    return Sensitivity(worst_first(effects), metric, graph)


# --- what is prepared once ------------------------------------------------------------------------


@dataclass(frozen=True)
class Prepared:
    """A graph that was calibrated: `tidy` as it was planned for, `observed` with its statistics."""

    tidy: GraphModule
    plan: QuantizationPlan
    observed: GraphModule
    parts: tuple[Part, ...]


def gathered(gm: GraphModule, batches: Iterable[Batch]) -> Inputs:
    """All batches, as inputs of the graph. Raises CalibrationError if they do not fit."""
    found = [inputs_of(gm, b, i) for i, b in enumerate(checked_batches(batches, "sensitivity"))]
    if not found:
        raise CalibrationError(
            "there are no batches",
            fix="pass an iterable of batches; a generator that was used up is empty",
        )
    return found


def prepare_parts(
    gm: GraphModule, inputs: Inputs, config: QuantConfig, *, progress: bool = False
) -> Prepared:
    """Calibrate a traced graph, and name its parts."""
    tidy = Pipeline(tidying()).run(gm)
    plan = plan_quantization(tidy, config)
    passes = (InsertObservers(config), Calibrate(inputs))
    observed = Pipeline(passes).run(tidy, PassContext(progress=progress))
    return Prepared(tidy, plan, observed, parts_of(tidy, plan))


def _check_settings(
    bits: Sequence[int],
    shares: Sequence[float],
    workers: int,
    config: QuantConfig,
    criterion: Judge,
) -> None:
    require_count("workers", workers)
    for count in _listed("bits", bits):
        require_count("bits", count, 2)
        require_number("bits", count, 2, 8)
    for share in _listed("fewer_channels", shares):
        require_number("fewer_channels", share, 0, 1, above=True)
    if not bits and not shares:
        raise ConfigError("there is nothing to try: both bits and fewer_channels are empty")
    require_kind("config", config, QuantConfig, "a QuantConfig")
    require_kind("criterion", criterion, Judge, "an object with a method `scores`", fix="L1()")


def _listed(name: str, values: object) -> Sequence[float]:
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise ConfigError(f"{name} must be a sequence of numbers, got {values!r}")
    if len(set(values)) < len(values):
        raise ConfigError(f"{name} must be different numbers, got {values!r}")
    return values


def _subject(experiments: Experiments, config: QuantConfig) -> Mapping[str, str]:
    """What results depend on, besides what the names of jobs say."""
    digest = hashlib.sha256()
    for number, batch in enumerate(experiments.inputs):
        for tensor in batch:
            plain = tensor.detach().cpu().contiguous()
            digest.update(f"{number}|{plain.dtype}|{tuple(plain.shape)}\n".encode())
            digest.update(plain.reshape(-1).view(torch.uint8).numpy().tobytes())
    evaluate = experiments.evaluate
    name = (
        "none" if evaluate is None else getattr(evaluate, "__qualname__", type(evaluate).__name__)
    )
    return {
        "graph": fingerprint(experiments.gm),
        "batches": digest.hexdigest(),
        "config": hashlib.sha256(repr(config).encode()).hexdigest(),
        "criterion": hashlib.sha256(repr(experiments.criterion).encode()).hexdigest(),
        "evaluate": name,
    }


# --- jobs -----------------------------------------------------------------------------------------

_FLOAT = "the graph in float"


@dataclass(frozen=True)
class _Job:
    """One part or group of channels, and all that is tried on it."""

    kind: EffectKind
    name: str
    place: int
    amounts: tuple[float, ...]

    @property
    def argument(self) -> Plain:
        """What `Experiments` is called with; without amounts it is about the graph in float."""
        return {"kind": self.kind, "place": self.place, "amounts": list(self.amounts)}

    def told(self, result: Plain) -> tuple[dict[str, float | None], int]:
        """What callbacks are told of the result, and at which step."""
        return self.measures(result), self.place

    def measures(self, result: Plain) -> dict[str, float | None]:
        """The numbers of a result by names for callbacks."""
        if not self.amounts:
            return {"float/metric": cast(list[list[float | None]], result)[0][1]}
        found: dict[str, float | None] = {}
        for effect in self.effects(result):
            start = f"{effect.kind} at {effect.reduction}"
            found[f"{start}/sqnr_db"] = effect.sqnr_db
            found[f"{start}/metric"] = effect.metric
        return found

    def effects(self, result: Plain) -> list[Effect]:
        found = cast(list[list[float | None]], result)
        return [
            Effect(self.kind, self.name, amount, math.inf if noise is None else noise, metric)
            for amount, (noise, metric) in zip(self.amounts, found, strict=True)
        ]


def _jobs(
    parts: Sequence[Part],
    bits: Sequence[int],
    groups: Sequence[Group],
    shares: Sequence[float],
) -> dict[str, _Job]:
    """All jobs by name; the names say what is tried, so that a journal may hold other ones too."""
    jobs = [
        _Job(part.kind, part.name, place, tuple(bits)) for place, part in enumerate(parts) if bits
    ]
    for place, group in enumerate(groups):
        if amounts := tuple(share for share in shares if group.removed(share)):
            jobs.append(_Job("channels", " + ".join(group.layers), place, amounts))
    named = {
        f"{job.kind} of {job.name}, {job.place}: {json.dumps(job.amounts)}": job for job in jobs
    }
    return {_FLOAT: _Job("weights", "", 0, ()), **named}

"""`qpc.sweep`: one recipe with many settings, each combination a run of its own."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from torch import nn
from torch.fx import GraphModule

from qpc.callbacks.protocol import Callback, Measures, checked_callbacks
from qpc.capture.checks import ExampleInputs
from qpc.compression.compress import compress, recipe_of, repeatable, traced_model
from qpc.compression.recipe import Recipe
from qpc.compression.result import Row, measures
from qpc.compression.step import Batches, Evaluate, Loss, Train
from qpc.errors import BudgetError, ConfigError
from qpc.hashing import fingerprint
from qpc.parallel.journal import Journal
from qpc.parallel.processes import processes
from qpc.parallel.run import Told, run_jobs
from qpc.parallel.work import Executor, Plain
from qpc.settings import require_count, require_kind
from qpc.storage import graph_files, graph_of_files

_RUNS, _JOURNAL = "runs", "journal"


@dataclass(frozen=True)
class SweepRun:
    """One combination, and what came of it.

    changed: the settings by their paths in the recipe. best: the model that the run returned; None
    if there was none, and `problem` says why. rows: all models that were judged. folder: where the
    run is kept, with its best graph under `best`; None if nowhere.
    """

    changed: Mapping[str, object]
    best: Row | None
    rows: tuple[Row, ...]
    problem: str | None
    folder: Path | None

    def __str__(self) -> str:
        return ", ".join(f"{path}={value}" for path, value in self.changed.items())


@dataclass(frozen=True)
class Sweep:
    """All combinations, in order."""

    runs: tuple[SweepRun, ...]

    def __str__(self) -> str:
        return self.table()

    def table(self) -> str:
        """A line for each run: the metric and the costs of its best model, or its problem."""
        width = max(len(str(run)) for run in self.runs)
        lines = [f"{'':<{width}}  {'metric':>8}  {'MACs':>13}  {'parameters':>11}  {'bytes':>11}"]
        for run in self.runs:
            if (best := run.best) is None:
                lines.append(f"{run!s:<{width}}  {run.problem}")
                continue
            costs = f"{best.macs:>13,}  {best.parameters:>11,}  {best.bytes:>11,}"
            lines.append(f"{run!s:<{width}}  {best.metric:>8.4f}  {costs}")
        return "\n".join(lines)

    def to_json(self) -> str:
        """Everything as JSON."""
        runs = [
            {
                "changed": dict(run.changed),
                "best": None if run.best is None else asdict(run.best),
                "rows": [asdict(row) for row in run.rows],
                "problem": run.problem,
            }
            for run in self.runs
        ]
        return json.dumps({"runs": runs}, indent=1)


def sweep(
    model: nn.Module,
    recipe: Recipe | Mapping[str, object] | str | os.PathLike[str],
    changes: Mapping[str, Sequence[object]],
    *,
    evaluate: Evaluate,
    train: Train | None = None,
    batches: Batches | None = None,
    loss: Loss | None = None,
    example_inputs: ExampleInputs | None = None,
    out: str | os.PathLike[str] | None = None,
    workers: int = 1,
    executor: Executor | None = None,
    progress: bool | Told = False,
    callbacks: Sequence[Callback] = (),
) -> Sweep:
    """Run `qpc.compress` once for every combination of some settings of a recipe.

    model: a graph of `qpc.trace`, or a module, which is traced with `example_inputs` or the first
    batch.
    changes: from the path of a setting in the recipe, such as
    "rounds.steps[0].allocation.amount" or "seed", to the values to try.
    evaluate, train, batches, loss: as for `qpc.compress`; in other processes they must be functions
    of a module, and data that can be pickled.
    out: a folder that keeps every run; the same call goes on from there, in the middle of runs.
    workers: in how many processes to work, each with one thread; executor: or where else, see
    `qpc.parallel`. Latencies that are measured while other runs work are those of a busy machine.
    progress: show a progress bar, or a function that is told how many jobs are done, of how many.
    callbacks: are told of each combination when it is done: "best/metric" and the costs of its best
    model, at the step that is its number.

    A combination that leads to no model, because none is inside of the budget, is a run with a
    problem, and no error. Raises ConfigError for a path that is not in the recipe and for values
    that the recipe refuses, before anything runs, and what `qpc.compress` raises else.
    """
    require_count("workers", workers)
    plain = recipe_of(recipe).plain()
    combinations = _combinations(plain, changes)
    require_kind("model", model, nn.Module, "a torch.nn.Module")
    made = repeatable(batches)
    gm = traced_model(model, example_inputs, made)
    if isinstance(batches, Iterator) and made is not None:
        batches = list(made())
    folder = None if out is None else Path(out)
    jobs = _jobs(combinations, folder)
    watchers = checked_callbacks(callbacks)
    with watchers.watching("sweep", {"recipe": plain, "changes": dict(changes)}):
        results = run_jobs(
            _Compression(gm, evaluate, train, batches, loss),
            jobs,
            executor=executor or processes(workers),
            journal=None
            if folder is None
            else Journal.open(folder / _JOURNAL, _subject(gm, plain)),
            progress="sweep" if progress is True else progress or None,
            each=watchers.of_jobs(len(jobs), _measured(jobs)),
        )
    pairs = zip(combinations, jobs.values(), results.values(), strict=True)
    return Sweep(tuple(_run(changed, job, result) for (changed, _), job, result in pairs))


def _jobs(
    combinations: Sequence[tuple[dict[str, Any], dict[str, Any]]], folder: Path | None
) -> dict[str, Plain]:
    jobs: dict[str, Plain] = {}
    for changed, resolved in combinations:
        place = None if folder is None else str((folder / _RUNS / _hash(resolved)).absolute())
        jobs[json.dumps(changed, sort_keys=True)] = {"recipe": resolved, "out": place}
    return jobs


def _measured(jobs: Mapping[str, Plain]) -> Callable[[str, Plain], tuple[Measures, int]]:
    """What callbacks are told of a combination: its best model, and its number."""
    steps = {name: step for step, name in enumerate(jobs)}

    def measured(name: str, result: Plain) -> tuple[Measures, int]:
        best = _run({}, jobs[name], result).best
        return {} if best is None else measures(best, "best"), steps[name]

    return measured


@dataclass(frozen=True)
class _Compression:
    """What is called for each combination."""

    gm: GraphModule
    evaluate: Evaluate
    train: Train | None
    batches: Batches | None
    loss: Loss | None

    def __call__(self, argument: Plain) -> Plain:
        given = cast(dict[str, Any], argument)
        try:
            result = compress(
                self.gm,
                given["recipe"],
                evaluate=self.evaluate,
                train=self.train,
                batches=self.batches,
                loss=self.loss,
                out=given["out"],
            )
        except BudgetError as e:
            return {"problem": e.what}
        return {"best": result.best.name, "rows": [asdict(row) for row in result.rows]}

    def __reduce__(self) -> tuple[Callable[..., _Compression], tuple[object, ...]]:
        functions = (self.evaluate, self.train, self.batches, self.loss)
        return _received, (graph_files(self.gm), *functions)


def _received(graph: dict[str, bytes], *functions: Any) -> _Compression:
    return _Compression(graph_of_files(graph, "the graph"), *functions)


def _run(changed: Mapping[str, object], job: Plain, result: Plain) -> SweepRun:
    found, given = cast(dict[str, Any], result), cast(dict[str, Any], job)
    folder = None if given["out"] is None else Path(given["out"])
    if "problem" in found:
        return SweepRun(changed, None, (), found["problem"], folder)
    rows = tuple(Row(**row) for row in found["rows"])
    best = next(row for row in rows if row.name == found["best"])
    return SweepRun(changed, best, rows, None, folder)


# --- what is given --------------------------------------------------------------------------------


def _combinations(
    recipe: Mapping[str, Any], changes: object
) -> list[tuple[dict[str, object], dict[str, Any]]]:
    """For each combination the settings that differ, and the whole recipe."""
    require_kind("changes", changes, Mapping, "a mapping from paths in the recipe to values")
    given = cast(Mapping[str, Any], changes)
    for path, values in given.items():
        if isinstance(values, str) or not isinstance(values, Sequence) or not values:
            raise ConfigError(f"the values of {path!r} must be a sequence, got {values!r}")
    found = []
    for values in itertools.product(*given.values()):
        changed = dict(zip(given, values, strict=True))
        made = deepcopy(dict(recipe))
        for path, value in changed.items():
            _put(made, path, value)
        try:
            found.append((changed, Recipe.model_validate(made).plain()))
        except ConfigError as e:
            shown = ", ".join(f"{path}={value!r}" for path, value in changed.items())
            raise ConfigError(f"the recipe with {shown}: {e.what}", fix=e.fix) from e
    return found


def _put(recipe: dict[str, Any], path: str, value: object) -> None:
    """Set what a path such as "rounds.steps[0].allocation.amount" leads to."""
    found = re.findall(r"([^.\[\]]+)|\[(\d+)\]", path)
    parts: list[str | int] = [int(number) if number else name for name, number in found]
    if not parts:
        raise _no_path(path)
    *before, last = parts
    here: Any = recipe
    for part in before:
        if part not in _keys(here):
            raise _no_path(path)
        here = here[part]
    # A setting that has no value yet can be set: the recipe says whether there is such a one.
    if last not in _keys(here) and not (isinstance(here, dict) and isinstance(last, str)):
        raise _no_path(path)
    here[last] = value


def _keys(value: object) -> Collection[object]:
    """What leads on from a value."""
    if isinstance(value, list):
        return range(len(value))
    return value.keys() if isinstance(value, dict) else ()


def _no_path(path: str) -> ConfigError:
    return ConfigError(
        f"the recipe has no setting {path!r}",
        fix='write paths such as "rounds.steps[0].allocation.amount"',
    )


def _hash(recipe: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]


def _subject(gm: GraphModule, recipe: Mapping[str, Any]) -> Mapping[str, str]:
    return {"model": fingerprint(gm), "recipe": _hash(recipe)}

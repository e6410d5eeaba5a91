"""One run of a recipe: steps, each of which is journalled, and the decisions between them."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import torch
from torch.fx import GraphModule

from qpc.base import PassContext
from qpc.batches import Batch
from qpc.callbacks.protocol import Callbacks
from qpc.compression.journal import CHECKPOINTS, Entry, Journal
from qpc.compression.measures import Timer, judged, measured
from qpc.compression.parallel import World, same_everywhere
from qpc.compression.progress import Progress
from qpc.compression.recipe import Recipe
from qpc.compression.result import CompressResult, Judgement, Row, measures
from qpc.compression.rounding import is_rounded
from qpc.compression.step import Evaluate, Loss, Phase, Place, Step, StepContext, Train
from qpc.compression.steps import EvaluateStep
from qpc.compression.training import TrainSettings, seeded
from qpc.errors import BudgetError, CompressionError, QPCError
from qpc.hashing import fingerprint
from qpc.pruning.scored_groups import Baseline
from qpc.recipes import convert

BASELINE = "baseline"
_OPTIMIZER = "{}.optimizer"  # of a training step


@dataclass(frozen=True)
class Inputs:
    """What the user gives a run besides model and recipe; see `qpc.compress`."""

    evaluate: Evaluate
    train: Train | None
    batches: Callable[[], Iterable[Batch]] | None
    loss: Loss | None
    device: torch.device
    timer: Timer


@dataclass
class Run:
    """A run, from the traced model to the result."""

    recipe: Recipe
    inputs: Inputs
    journal: Journal
    world: World
    progress: Progress
    callbacks: Callbacks = field(default_factory=lambda: Callbacks(()))
    candidates: list[str] = field(default_factory=list)
    _passes: PassContext = field(default_factory=PassContext)
    _judged: int = 0

    def go(self, gm: GraphModule) -> tuple[Judgement, list[Row], str]:
        """Do what is not done yet, and say why the rounds ended."""
        base = self._baseline(gm)
        judgement = Judgement(self.recipe, _row(base))
        if not judgement.inside(_row(base)):
            raise CompressionError(
                f"the budget is broken before compression begins: {self.recipe.metric} is "
                f"{_row(base).metric:g}, the limit is {judgement.limit:g}",
                fix="set another limit, or begin with a better model",
            )
        trunk = self._steps(self.recipe.start, base, "start", 0)
        name = "before the rounds" if self.recipe.rounds else "result"
        first = self._candidate(trunk, 0, name)
        judgement = replace(judgement, first=first)
        stopped = self._rounds(trunk, first, judgement)
        rows = [entry.row for entry in self.journal.entries if entry.row is not None]
        return judgement, rows, stopped

    def _rounds(self, trunk: Entry, last: Row, judgement: Judgement) -> str:
        rounds = self.recipe.rounds
        if rounds is None:
            return "all steps are done"
        outside = 0
        for number in range(1, rounds.at_most + 1):
            if judgement.inside(last) and judgement.reaches(last):
                break
            trunk = self._steps(rounds.steps, trunk, "round", number)
            last = self._candidate(trunk, number, f"round {number}")
            outside = 0 if judgement.inside(last) else outside + 1
            if outside > rounds.patience:
                return f"round {number} has broken the budget"
        if judgement.inside(last) and judgement.reaches(last):
            return "the target is reached"
        return f"all rounds are done: {rounds.at_most}"

    # --- steps ------------------------------------------------------------------------------------

    def _baseline(self, gm: GraphModule) -> Entry:
        """The model before compression; the one that the run began with, if it goes on."""
        found = fingerprint(gm)
        same_everywhere(self.world, "the model", found)
        known = self.journal.find(BASELINE)
        if known is not None and known.fingerprint != found:
            raise CompressionError(
                f"the model is not the one that the run in {str(self.journal.folder)!r} began with",
                fix="choose another folder for this model, or remove that one",
            )

        def act() -> tuple[GraphModule, Row]:
            return gm, self._judge(gm, gm, BASELINE, candidate=False, timed=False)

        return self._done(BASELINE, BASELINE, BASELINE, act)

    def _steps(self, steps: Sequence[Step], before: Entry, phase: Phase, number: int) -> Entry:
        """Do steps one after the other; those of the finish on a branch."""
        trunk = before
        most = self.recipe.rounds.at_most if self.recipe.rounds else 1
        for place, step in enumerate(steps, start=1):
            group = phase if phase == "start" else f"{phase}-{number}"
            name = f"{group}.{place}-{step.kind}"
            text = step.kind if phase == "start" else f"round {number} of {most}: {step.kind}"
            before = self._step(step, Place(name, phase, number, most), before, trunk, text)
        return before

    def _step(self, step: Step, place: Place, before: Entry, trunk: Entry, text: str) -> Entry:
        kind = _kind(place.name)

        def act() -> tuple[GraphModule | None, Row | None]:
            gm = self.journal.load(before.graph)
            if isinstance(step, EvaluateStep):
                label = f"{step.name} ({place.number})" if place.number else step.name
                return None, self._judge(gm, gm, label, candidate=False, timed=step.compile)
            return step.run(gm, self._context(place, before)), None

        return self._done(place.name, kind, text, act, before, trunk)

    def _candidate(self, trunk: Entry, number: int, label: str) -> Row:
        """Make a candidate of the model, and judge it."""
        branch = self._steps(self.recipe.finish, trunk, "finish", number)
        name = f"candidate-{number}"

        def act() -> tuple[GraphModule, Row]:
            gm = self.journal.load(branch.graph)
            final = convert(gm) if is_rounded(gm) else gm
            seen = gm if self.recipe.judge == "rounded" else final
            return final, self._judge(seen, final, label, candidate=True, timed=True)

        self.candidates.append(name)
        return _row(self._done(name, "candidate", f"judging {label}", act, branch, trunk))

    def _done(
        self,
        name: str,
        kind: str,
        text: str,
        act: Callable[[], tuple[GraphModule | None, Row | None]],
        before: Entry | None = None,
        trunk: Entry | None = None,
    ) -> Entry:
        """Do a step and journal it, unless the journal has it already."""
        known = self.journal.find(name)
        if known is None:
            self.progress.begin(kind, text)
            known = self._record(name, act, before, trunk)
        self.progress.done(kind, known.seconds)
        if known.row is not None:
            self._tell(known.row)
        return known

    def _tell(self, row: Row) -> None:
        """Tell the callbacks of a model that was judged."""
        self.callbacks.metrics(measures(row, "judged"), self._judged)
        self._judged += 1

    def _record(
        self,
        name: str,
        act: Callable[[], tuple[GraphModule | None, Row | None]],
        before: Entry | None,
        trunk: Entry | None,
    ) -> Entry:
        begun = time.perf_counter()
        self._passes = PassContext()
        found: list[tuple[GraphModule | None, Row | None]] = []

        def attempt() -> str:
            try:
                with seeded(self._seed(name)):
                    found.append(act())
            except QPCError as e:
                e.add_note(f"  in step: {name}")
                raise
            gm = found[0][0]
            return "" if gm is None else fingerprint(gm)

        left = self.world.together(attempt)
        same_everywhere(self.world, f"what {name!r} leaves", left)
        gm, row = found[0]
        remarks = tuple(str(report) for report in self._passes.reports)
        graph, mark = (name, left) if gm is not None else ("", "")
        if gm is None and before is not None:
            graph, mark = before.graph, before.fingerprint
        seconds = round(time.perf_counter() - begun, 3)
        entry = Entry(name, graph, mark, seconds, row, remarks, self._optimizer(name, before))
        needed = {BASELINE, *self.candidates}
        if trunk is not None:
            needed |= {trunk.graph, trunk.optimizer}

        def keep() -> str:
            if self.world.first:
                self.journal.record(entry, gm, needed)
            return json.dumps(entry.plain())

        said = self.world.together(keep, 0)
        if not self.world.first:
            entry = Entry.of(json.loads(said))
            self.journal.record(entry, gm, needed)
        return entry

    # --- what steps are given ---------------------------------------------------------------------

    def _optimizer(self, name: str, before: Entry | None) -> str:
        """The name of the state of an optimizer that steps after this one may begin with."""
        own = _OPTIMIZER.format(name)
        if self.journal.optimizer(own).is_dir():
            return own
        return "" if before is None else before.optimizer

    def _context(self, place: Place, before: Entry) -> StepContext:
        steps = self.recipe.steps()
        carries = any(isinstance(s, TrainSettings) and s.carry_optimizer for s in steps)
        own, theirs = _OPTIMIZER.format(place.name), before.optimizer
        return StepContext(
            place=place,
            seed=self._seed(place.name),
            batches=self.inputs.batches,
            train=self.inputs.train,
            loss=self.inputs.loss,
            teacher=lambda: self.journal.load(BASELINE),
            baseline=cache(lambda heads: Baseline.of(self.journal.load(BASELINE), heads=heads)),
            checkpoints=self._checkpoints(),
            optimizer_before=self.journal.optimizer(theirs) if theirs else None,
            optimizer_after=self.journal.optimizer(own) if carries else None,
            device=self.inputs.device,
            world=self.world,
            passes=self._passes,
            tell=self.progress.tell,
            report=self.callbacks.metrics,
        )

    def _checkpoints(self) -> Path:
        folder = self.journal.folder / CHECKPOINTS
        folder.mkdir(exist_ok=True)
        return folder

    def _seed(self, name: str) -> int:
        """A seed for each step, which no step before it changes."""
        digest = hashlib.sha256(f"{self.recipe.seed}/{name}".encode()).digest()
        return int.from_bytes(digest[:7], "little")

    def _judge(
        self, seen: GraphModule, gm: GraphModule, label: str, *, candidate: bool, timed: bool
    ) -> Row:
        """Judge a model: `seen` is what the user's function sees of it."""
        metric = judged(seen, self.inputs.evaluate, label, self.inputs.device)
        metrics = self.world.gather(json.dumps(metric))
        options = self.recipe.compilation
        latency = self.inputs.timer(gm, options) if timed and options and self.world.first else None
        return measured(gm, label, float(metrics[0]), candidate=candidate, latency_ms=latency)


def result_of(run: Run, judgement: Judgement, rows: list[Row], stopped: str) -> CompressResult:
    """The best model of a run; raises CompressionError if none is inside of the budget."""
    best = judgement.best(rows)
    if best is None:
        nearest = max((row for row in rows if row.candidate), key=judgement.worth)
        raise BudgetError(
            f"no model is inside of the budget: {run.recipe.metric} of {nearest.name!r} is "
            f"{nearest.metric:g}, the limit is {judgement.limit:g}",
            fix="train longer, prune less in each round, quantize with more bits, or allow more",
        )
    entry = next(entry for entry in run.journal.entries if entry.row == best)
    reached = None if run.recipe.target is None else judgement.reaches(best)
    model = run.journal.load(entry.graph)
    folder = run.journal.folder
    return CompressResult(model, best, tuple(rows), judgement, stopped, reached, folder)


def _row(entry: Entry) -> Row:
    assert entry.row is not None
    return entry.row


def _kind(name: str) -> str:
    """What a step has in common with the same step of other rounds: its name without the number."""
    group, _, rest = name.partition(".")
    return f"{group.partition('-')[0]}.{rest}"


def kinds(steps: Sequence[Step], phase: str) -> list[str]:
    """The kinds of the steps of a phase."""
    return [f"{phase}.{place}-{step.kind}" for place, step in enumerate(steps, start=1)]

"""How much is gone after each step of iterative pruning, and the loop that prunes by steps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, field

from torch.fx import GraphModule

from qpc.base import Pass, PassContext
from qpc.errors import ConfigError
from qpc.facts import CORE_FORM
from qpc.families import Family
from qpc.pipeline import Pipeline
from qpc.pruning.scored_groups import Baseline
from qpc.settings import require_count, require_number


@dataclass(frozen=True)
class Step:
    """One step of a schedule.

    number: from 1 to `count`; amount: how much of the original model is gone after it, from 0 to 1;
    baseline: the original model.
    """

    number: int
    count: int
    amount: float
    baseline: Baseline = field(repr=False)


@dataclass(frozen=True)
class Schedule(ABC):
    """The way to a final amount.

    final: how much of the original model is gone in the end; steps: how many there are;
    initial: how much is gone before the first step.
    """

    final: float
    steps: int
    _: KW_ONLY
    initial: float = 0.0

    def __post_init__(self) -> None:
        require_number("initial", self.initial, 0, 1)
        require_number("final", self.final, 0, 1)
        if self.initial > self.final:
            raise ConfigError(
                f"initial and final must ascend from 0 to 1, got {self.initial} and {self.final}"
            )
        require_count("steps", self.steps)

    @abstractmethod
    def progress(self, time: float) -> float:
        """The part of the way that is done at a time; both from 0 to 1."""

    def amounts(self) -> tuple[float, ...]:
        """How much is gone after each step."""
        way = self.final - self.initial
        return tuple(
            self.initial + way * self.progress(number / self.steps)
            for number in range(1, self.steps + 1)
        )


SCHEDULES = Family("schedule", Schedule, group="qpc.schedules")
"""Schedules by name."""


@SCHEDULES.named("one-shot")
@dataclass(frozen=True)
class OneShot(Schedule):
    """Everything in the only step."""

    steps: int = field(default=1, init=False)

    def progress(self, time: float) -> float:
        return 1.0


@SCHEDULES.named("linear")
@dataclass(frozen=True)
class Linear(Schedule):
    """The same amount in each step."""

    def progress(self, time: float) -> float:
        return time


@SCHEDULES.named("cubic")
@dataclass(frozen=True)
class Cubic(Schedule):
    """Much at first, little in the end, when little is left. Zhu & Gupta 2017, arXiv:1710.01878."""

    def progress(self, time: float) -> float:
        return 1 - (1 - time) ** 3


FineTune = Callable[[GraphModule, Step], GraphModule | None]
"""Trains the graph after a step, in place or into the graph that it returns.

What it leaves must stand for inference: end with `qpc.set_training(gm, mode=False)`.
"""


def prune_iteratively(
    gm: GraphModule,
    schedule: Schedule,
    make_passes: Callable[[Step], Sequence[Pass]],
    fine_tune: FineTune | None = None,
    *,
    heads: str | tuple[str, ...] = (),
    ctx: PassContext | None = None,
) -> GraphModule:
    """Return a copy of a core-form graph that was pruned, and trained, step by step.

        pruned = prune_iteratively(
            gm,
            Cubic(0.5, steps=4),
            lambda step: [
                CreateMasks(L1(), Uniform(0, of="macs").at(step)),
                PropagateMasks(),
                RemoveChannels(),
            ],
            fine_tune=train,
        )

    make_passes: the passes of one step. Their amounts are relative to the original model, which
    `Allocation.at(step)` sees to.
    heads: as in the passes; for the measures of the original model.
    """
    for step in _steps(gm, schedule, heads):
        gm = Pipeline(tuple(make_passes(step)), frozenset({CORE_FORM})).run(gm, ctx)
        if fine_tune is not None:
            gm = fine_tune(gm, step) or gm
    return gm


def _steps(gm: GraphModule, schedule: Schedule, heads: str | tuple[str, ...]) -> Iterator[Step]:
    baseline = Baseline.of(gm, heads=heads)
    for number, amount in enumerate(schedule.amounts(), start=1):
        yield Step(number, schedule.steps, amount, baseline)

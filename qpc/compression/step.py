"""What a step of compression is: one small class with one method, and a name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor
from torch.fx import GraphModule

from qpc.base import PassContext
from qpc.batches import Batch
from qpc.callbacks.protocol import Measures
from qpc.compression.parallel import World
from qpc.compression.parts import Part
from qpc.errors import ConfigError
from qpc.families import KindFamily
from qpc.pruning.scored_groups import Baseline

if TYPE_CHECKING:
    from qpc.compression.training import TrainContext

Phase = Literal["start", "round", "finish"]


class Train(Protocol):
    """A user's training: in place, or into the graph that it returns.

    What it leaves must stand for inference: end with `qpc.set_training(gm, mode=False)`.
    """

    def __call__(self, gm: GraphModule, context: TrainContext, /) -> GraphModule | None: ...


Evaluate = Callable[[GraphModule], float]
"""How good a graph is, as one number."""
Batches = Iterable[Batch] | Callable[[], Iterable[Batch]]
"""Calibration data: what can be iterated more than once, or makes an iterable when called."""
Report = Callable[[Measures, int], None]
"""Takes numbers by name, and their place among others of these names."""
Loss = Callable[[Any, Any], Tensor]
"""From a graph's output and the batch that it is for to a scalar; for criteria with gradients."""


@dataclass(frozen=True)
class Place:
    """Where in a run a step stands.

    name: unique in the run; number: of the round, from 1, or 0 outside of rounds; rounds: how many
    rounds there may be.
    """

    name: str
    phase: Phase
    number: int = 0
    rounds: int = 1


@dataclass
class StepContext:
    """What a step may use besides the graph.

    place: where it stands; seed: its own, made of the recipe's and its place.
    batches: makes calibration batches; None if there are none. train, loss: the user's.
    teacher: a copy of the model before compression, made when called.
    baseline: the sizes of that model, to which amounts of pruning are relative.
    device: where training happens. checkpoints: a folder for what happens within a step.
    optimizer_before: a checkpoint that the last training step has left of its graph and optimizer;
    optimizer_after: where this one leaves its own, if another step may want it.
    world: the processes that do the same together.
    passes: collects the reports of passes. tell: says what is done, for whoever watches. report:
    the same with numbers, by name, and their place among others.
    """

    place: Place
    seed: int
    batches: Callable[[], Iterable[Batch]] | None
    train: Train | None
    loss: Loss | None
    teacher: Callable[[], GraphModule]
    baseline: Callable[[str | tuple[str, ...]], Baseline]
    checkpoints: Path | None = None
    optimizer_before: Path | None = None
    optimizer_after: Path | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    world: World = field(default_factory=World)
    passes: PassContext = field(default_factory=PassContext)
    tell: Callable[[str], None] = lambda text: None
    report: Report = lambda values, step: None

    def require_batches(self) -> Iterable[Batch]:
        """The calibration batches; raises ConfigError if there are none."""
        if self.batches is None:
            raise ConfigError(
                f"the step {self.place.name!r} needs calibration data", fix="pass batches="
            )
        return self.batches()

    @property
    def supply(self) -> Mapping[str, object]:
        """Settings of passes and criteria that no text can hold."""
        supplied: dict[str, object] = {}
        if self.batches is not None:
            supplied["batches"] = self.batches()
        if self.loss is not None:
            supplied["loss"] = self.loss
        return supplied


class Step(Part, ABC):
    """One step: settings, and what it does to a graph.

    needs: of the run's inputs "train", "batches" and "loss", those without which it cannot do
    anything. notes: the result is also evaluated, and becomes a line of the table.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    notes: ClassVar[bool] = False
    kind: str

    @abstractmethod
    def run(self, gm: GraphModule, at: StepContext) -> GraphModule:
        """Return the graph after the step; `gm` is the step's own and may be changed."""

    @property
    def required(self) -> frozenset[str]:
        """What it needs with these settings."""
        return self.needs


STEPS = KindFamily("step", Step)
"""Steps by name; the name of a pass is a step, too, see `PassStep`."""

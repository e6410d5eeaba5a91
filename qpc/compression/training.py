"""Training between steps: what a user's function is given, and what it must leave."""

from __future__ import annotations

import random
from abc import ABC
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Annotated, Literal, SupportsFloat

import numpy as np
import torch
from pydantic import Field, StrictBool, StrictInt
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.optim import Optimizer

from qpc.compression.carrying import Carrier
from qpc.compression.epochs import Keeper
from qpc.compression.parallel import World
from qpc.compression.parts import Part
from qpc.compression.rounding import is_rounded
from qpc.compression.step import Place, Report, Step, StepContext
from qpc.errors import CompressionError
from qpc.facts import CORE_FORM
from qpc.meta import copied
from qpc.modes import ordinary_torch
from qpc.ops.affine import BatchNorm
from qpc.ops.movement import Dropout
from qpc.pruning.weight_masks import mask_gradients, remask
from qpc.training.checkpoint import Stateful
from qpc.training.distillation import Distillation

Option = bool | int | float | str


class Distil(Part):
    """What a step learns from the model before compression, see `qpc.training.Distillation`.

    logits: weight of the outputs; temperature: of these. values: weights by module path; method:
    how these are compared. labels: weight of the loss that there is without a teacher.
    """

    logits: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    temperature: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 4.0
    values: Mapping[str, Annotated[float, Field(ge=0, allow_inf_nan=False)]] = Field(
        default_factory=dict
    )
    method: Literal["attention", "hint", "similarity"] = "attention"
    labels: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0


class TrainSettings(Step, ABC):
    """How a step trains; the user's function reads all of it from its context.

    epochs: how many. learning_rate: nothing for the function's own. distil: what is learned from
    the model before compression. options: anything else that the function wants to be told.
    carry_optimizer: begin with the momentum, or whatever else the optimizer has gathered, of the
    training step before, without the channels that are gone since; by default it begins anew.
    """

    epochs: Annotated[StrictInt, Field(ge=0)] = 1
    learning_rate: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    distil: Distil | None = None
    options: Mapping[str, Option] = Field(default_factory=dict)
    carry_optimizer: StrictBool = False


@dataclass
class TrainContext:
    """What a training function is told.

    place: the step, its round and how many rounds there may be. epochs, learning_rate, options: as
    the recipe has them. seed: of this step; torch, numpy and random are seeded with it already.
    generator: the same for what takes a generator. device: where the graph is. world: the processes
    that train together. distil: what the recipe wants to be learned from the model before
    compression. teacher: makes a copy of that, in inference.
    """

    place: Place
    epochs: int
    learning_rate: float | None
    options: Mapping[str, Option]
    distil: Distil | None
    seed: int
    generator: torch.Generator
    device: torch.device
    world: World
    teacher: Callable[[], GraphModule]
    keeper: Keeper = field(repr=False)
    carrier: Carrier = field(default_factory=Carrier, repr=False)
    tell: Callable[[str], None] = field(default=lambda text: None, repr=False)
    reported: Report = field(default=lambda values, step: None, repr=False)

    def report(self, step: int, **values: SupportsFloat) -> None:
        """Tell the callbacks of the run numbers, such as `context.report(epoch, loss=loss)`.

        step: where they stand among others of their names in this step of the recipe, from 0.
        values: numbers, or tensors of one.
        """
        self.reported({f"{self.place.name}/{name}": value for name, value in values.items()}, step)

    def distillation(self, gm: GraphModule) -> Distillation | None:
        """What runs `gm` and its teacher and returns outputs and a loss; None without a teacher.

        Add `distil.labels` times a loss of your own. Its parameters are those of `gm` and what is
        learned beside it: pass `modules={"distillation": ...}` to `each_epoch`.
        """
        if self.distil is None:
            return None
        wanted = self.distil
        return Distillation(
            self.teacher(),
            gm,
            logits=wanted.logits,
            temperature=wanted.temperature,
            values=dict(wanted.values),
            method=wanted.method,
        )

    def each_epoch(
        self,
        gm: GraphModule,
        optimizer: Optimizer,
        scheduler: Stateful | None = None,
        *,
        generators: Mapping[str, torch.Generator] | None = None,
        modules: Mapping[str, nn.Module] | None = None,
    ) -> Iterator[int]:
        """The numbers of the epochs to train, from 0, after each of which everything is kept.

        When an interrupted run goes on, what had been kept is put back and its epochs are left out:
        the graph, the arguments here, and all random states.

        optimizer: of the parameters of `gm` and `modules`. scheduler: anything with `state_dict`
        and `load_state_dict`. generators: of random numbers, besides `self.generator`. modules:
        further ones that are trained. The last two by names of one's own.
        """
        own = {**(generators or {}), "context": self.generator}
        kept = gm, optimizer, scheduler, own, modules or {}
        first = self.keeper.restore(*kept)
        self.carrier.begin(gm, optimizer, modules or {}, fresh=first == 0)
        for epoch in range(first, self.epochs):
            self.tell(f"epoch {epoch + 1} of {self.epochs}")
            yield epoch
            if epoch + 1 < self.epochs:
                self.keeper.save(epoch + 1, *kept)


def trained(gm: GraphModule, settings: TrainSettings, at: StepContext) -> GraphModule:
    """What the user's function makes of `gm`.

    Weights that are masked stay zero. Raises CompressionError if what it leaves is not in core
    form, is in training mode, or has parameters that are no numbers.
    """
    assert at.train is not None  # the recipe was checked
    work = copied(gm).to(at.device)
    wanted = settings.carry_optimizer
    carrier = Carrier(at.optimizer_before if wanted else None, at.optimizer_after)
    context = TrainContext(
        at.place,
        settings.epochs,
        settings.learning_rate,
        settings.options,
        settings.distil,
        at.seed,
        torch.Generator().manual_seed(at.seed),
        at.device,
        at.world,
        lambda: at.teacher().to(at.device),
        Keeper(at.checkpoints, at.place.name, at.world),
        carrier,
        at.tell,
        at.report,
    )
    with mask_gradients(work):
        answer = at.train(work, context)
    result = _checked(gm, work if answer is None else answer, at.place.name)
    remask(result)
    carrier.leave(at.place.name, at.world, wanted=wanted)
    return result.to("cpu")


def _checked(before: GraphModule, after: object, name: str) -> GraphModule:
    def refuse(what: str, fix: str) -> CompressionError:
        return CompressionError(f"the training function {what} (in {name!r})", fix=fix)

    if not isinstance(after, GraphModule):
        raise refuse(
            f"returned {type(after).__name__}, not a graph",
            "train the graph in place and return nothing, or return the trained graph",
        )
    if (broken := CORE_FORM.violation(after)) is not None:
        raise refuse(
            f"left a graph that is not in core form: {broken}",
            "change weights, not the graph; edits belong in passes",
        )
    if (where := _training(after)) is not None:
        raise refuse(f"left {where} in training mode", "end with qpc.set_training(gm, mode=False)")
    if is_rounded(before) and not is_rounded(after):
        raise refuse("left a graph that is no longer rounded", "train the graph that it was given")
    if _inputs(before) != _inputs(after):
        raise refuse("left a graph with other inputs", "train the graph that it was given")
    if (tensor := _not_finite(after)) is not None:
        raise refuse(f"left values that are no numbers in {tensor!r}", "lower the learning rate")
    for parameter in after.parameters():
        parameter.grad = None
    return after


def _inputs(gm: GraphModule) -> list[str]:
    return [str(node.target) for node in gm.graph.nodes if node.op == "placeholder"]


def _training(gm: GraphModule) -> str | None:
    for node in gm.graph.nodes:
        norm, drop = BatchNorm.of(node), Dropout.of(node)
        # A norm without running statistics takes those of the batch in inference, too.
        if (norm and norm.training and norm.running_mean is not None) or (drop and drop.train):
            return str(node.name)
    return "the graph" if gm.training else None


def _not_finite(gm: nn.Module) -> str | None:
    named: list[tuple[str, Tensor]] = [*gm.named_parameters(), *gm.named_buffers()]
    floats = ((name, tensor) for name, tensor in named if tensor.is_floating_point())
    return next((name for name, t in floats if bool(t.isnan().any())), None)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Torch, numpy and random begin with this seed, and are as they were afterwards."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        with ordinary_torch():
            torch.manual_seed(seed)
            np.random.seed(seed % 2**32)
            random.seed(seed)
            yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])

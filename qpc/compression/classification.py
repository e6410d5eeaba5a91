"""Ready functions for classification: to train, judge and calibrate, by one or more processes."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn import functional as F
from torch.optim import SGD
from torch.optim.lr_scheduler import CosineAnnealingLR

from qpc.batches import Batch
from qpc.compression.norms import shared_norms
from qpc.compression.parallel import World
from qpc.compression.samples import Samples
from qpc.compression.training import TrainContext
from qpc.errors import CompressionError
from qpc.training.distillation import Distillation
from qpc.training.switch import set_training

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Classification:
    """Classification of samples, for `qpc.compress`.

        task = Classification(TensorSamples(images, labels), TensorSamples(others, theirs))
        qpc.compress(model, recipe, train=task.train, evaluate=task.evaluate, batches=task.batches)

    training, test: the samples. batch_size: of all processes together. learning_rate: of steps that
    give none; it falls to zero over a step. momentum, weight_decay: of stochastic gradient descent;
    parameters with one axis and learned grids do not decay. flip: mirror inputs at random along
    their last axis. calibration: how many training samples calibrate, the first ones of an order
    that is drawn once.
    """

    training: Samples = field(repr=False)
    test: Samples = field(repr=False)
    batch_size: int = 128
    learning_rate: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    flip: bool = False
    calibration: int = 512

    def batches(self) -> Iterator[Batch]:
        """Calibration batches: inputs and labels."""
        order = torch.randperm(
            len(self.training.labels), generator=torch.Generator().manual_seed(0)
        )
        for chosen in order[: self.calibration].split(self.batch_size):
            yield self.training.inputs(chosen), self.training.labels[chosen]

    def loss(self, output: Any, batch: Any) -> Tensor:
        """The mean cross entropy of a batch, for criteria that look at gradients."""
        return F.cross_entropy(output, batch[1])

    def evaluate(self, gm: GraphModule) -> float:
        """The share of test samples whose greatest output is that of their class."""
        device = _device_of(gm)
        right = 0
        with torch.no_grad():
            for chosen in torch.arange(len(self.test.labels)).split(self.batch_size):
                outputs = gm(self.test.inputs(chosen).to(device))
                right += int((outputs.argmax(1).cpu() == self.test.labels[chosen]).sum())
        return right / len(self.test.labels)

    def train(self, gm: GraphModule, context: TrainContext) -> None:
        """Train a graph in place, with a teacher if the recipe has one.

        Every process takes its part of each batch. Gradients and the statistics of batch norms are
        those of the whole batch, so that several processes do what one would, to float rounding;
        but values that are compared with a teacher's are compared part by part.

        Callbacks are told the mean loss of each epoch. A training whose end is no better than
        guessing is warned of.
        """
        rate = context.learning_rate or self.learning_rate
        set_training(gm)
        teacher = context.distillation(gm)
        model: nn.Module = gm if teacher is None else teacher
        beside = {"distillation": teacher.projections} if teacher else {}
        optimizer = SGD(_groups(model, self.weight_decay), lr=rate, momentum=self.momentum)
        steps = max(len(self.training.labels) // self.batch_size, 1)
        schedule = CosineAnnealingLR(optimizer, max(steps * context.epochs, 1))
        losses = _Losses()
        for epoch in context.each_epoch(gm, optimizer, schedule, modules=beside):
            for chosen in self._order(context):
                optimizer.zero_grad()
                self._loss(model, chosen, context, losses).backward()
                share_gradients(model, context.world)
                optimizer.step()
                schedule.step()
            context.report(epoch, loss=losses.of_epoch())
        losses.judge(context.place.name)
        set_training(gm, mode=False)

    def _order(self, context: TrainContext) -> Sequence[Tensor]:
        """The samples in a random order, in batches; a last one that is too small is left out."""
        count = len(self.training.labels)
        batches = torch.randperm(count, generator=context.generator).split(self.batch_size)
        whole = [chosen for chosen in batches if len(chosen) == self.batch_size]
        return whole or batches

    def _loss(
        self, model: nn.Module, chosen: Tensor, context: TrainContext, losses: _Losses
    ) -> Tensor:
        """The part of the mean loss of a batch that is this process's."""
        inputs, labels = self.training.inputs(chosen), self.training.labels[chosen]
        if self.flip:
            mirrored = torch.rand(len(inputs), generator=context.generator) < _HALF
            inputs = torch.where(_along_batch(mirrored, inputs), inputs.flip(-1), inputs)
        part = context.world.shard(len(chosen))
        own = slice(part.start, part.stop)
        with shared_norms(context.world):
            answer = model(inputs[own].to(context.device))
        taught = isinstance(model, Distillation)
        outputs, extra = answer if taught else (answer, 0.0)
        missed = F.cross_entropy(outputs, labels[own].to(context.device), reduction="sum")
        missed = missed / len(chosen)
        weight = context.distil.labels if context.distil else 1.0
        loss: Tensor = weight * missed + extra * (len(part) / len(chosen))
        totals = torch.stack([loss.detach(), missed.detach()]).cpu()
        context.world.sum([totals])  # so that either all processes go on, or none
        if not bool(totals.isfinite().all()):
            raise CompressionError(
                f"the loss has become {float(totals[0])} in {context.place.name!r}",
                fix="lower the learning rate of this step",
            )
        losses.add(*totals.tolist(), classes=outputs.shape[1])
        return loss


_HALF = 0.5  # of the inputs are mirrored
_END = 0.1  # of the last epoch, which says what a training has come to
_GUESSING = 0.98  # of the cross entropy of equal chances for all classes


@dataclass
class _Losses:
    """The losses of an epoch, by batch.

    missed: the cross entropies of the labels; guessing: what these are where nothing is known.
    """

    total: list[float] = field(default_factory=list)
    missed: list[float] = field(default_factory=list)
    guessing: float = math.inf
    done: bool = True

    def add(self, total: float, missed: float, *, classes: int) -> None:
        """Count a batch, which begins an epoch after one that is done."""
        if self.done:
            self.total, self.missed, self.done = [], [], False
        self.total.append(total)
        self.missed.append(missed)
        self.guessing = math.log(classes)

    def of_epoch(self) -> float:
        """The mean loss of the epoch that is done with this."""
        self.done = True
        return sum(self.total) / len(self.total)

    def judge(self, name: str) -> None:
        """Warn if the last epoch has come to nothing."""
        end = self.missed[-max(int(len(self.missed) * _END), 1) :]
        if end and sum(end) / len(end) >= _GUESSING * self.guessing > 0.0:
            _log.warning(
                "the training in %r ends no better than guessing (cross entropy %.2f): lower its"
                " learning rate, or let batch norms stay until then (qat: batch_norm: simulated)",
                name,
                sum(end) / len(end),
            )


def share_gradients(model: nn.Module, world: World) -> None:
    """Add the gradients of all processes up, in place: call it between `backward` and the step."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    world.sum(gradients)


def _groups(model: nn.Module, decay: float) -> list[dict[str, Any]]:
    weights = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": weights, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def _device_of(gm: GraphModule) -> torch.device:
    found = next((tensor.device for tensor in (*gm.parameters(), *gm.buffers())), None)
    return found or torch.device("cpu")


def _along_batch(flags: Tensor, like: Tensor) -> Tensor:
    return flags.reshape(-1, *[1] * (like.dim() - 1))

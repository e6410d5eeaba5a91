"""Short trainings that can stop after any step, and go on from a checkpoint in another process."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.optim import SGD, AdamW, Optimizer, lr_scheduler

import qpc
from qpc.passes import LearnGrids, MaskWeights
from qpc.pruning.weight_masks import remask
from qpc.pruning.weight_rules import NOfM
from qpc.training import load_checkpoint, save_checkpoint
from qpc.training.random_state import RandomSource

IMAGE = (4, 4, 6, 6)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8)
        self.drop, self.head = nn.Dropout(0.3), nn.Linear(8 * 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.norm(self.stem(x)))
        result: Tensor = self.head(self.drop(y).flatten(1))
        return result


def float_graph() -> GraphModule:
    torch.manual_seed(0)
    return qpc.trace(Net().eval(), torch.randn(IMAGE))


def channels_last() -> GraphModule:
    gm = float_graph()
    for parameter in gm.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return gm


def rounded() -> GraphModule:
    """Fake-quantized, with learned grids and masked weights."""
    masked = qpc.Pipeline((MaskWeights(NOfM(2, 4)),)).run(float_graph())
    return qpc.prepare_qat(masked, [torch.randn(IMAGE)], learn=LearnGrids(zero_points=True))


def momentum(gm: GraphModule) -> Optimizer:
    return SGD(gm.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3, nesterov=True)


def adamw(gm: GraphModule) -> Optimizer:
    decayed = [p for p in gm.parameters() if p.dim() > 1]
    others = [p for p in gm.parameters() if p.dim() <= 1]
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
    return AdamW(groups, lr=0.01)


def chained(optimizer: Optimizer) -> lr_scheduler.LRScheduler:
    parts = [lr_scheduler.LinearLR(optimizer), lr_scheduler.CosineAnnealingLR(optimizer, 9)]
    return lr_scheduler.SequentialLR(optimizer, list(parts), milestones=[2])


Run = tuple[
    Callable[[], GraphModule],
    Callable[[GraphModule], Optimizer],
    Callable[[Optimizer], lr_scheduler.LRScheduler],
]
RUNS: dict[str, Run] = {
    "float": (float_graph, momentum, lambda o: lr_scheduler.MultiStepLR(o, [2, 4])),
    "channels last": (channels_last, adamw, chained),
    "rounded": (rounded, momentum, lambda o: lr_scheduler.OneCycleLR(o, 0.02, total_steps=9)),
    "rounded, adamw": (rounded, adamw, chained),
}


class Training:
    """One run with all it needs; random numbers come from everywhere."""

    def __init__(self, name: str, gm: GraphModule | None = None) -> None:
        make_graph, make_optimizer, make_scheduler = RUNS[name]
        self.gm = qpc.set_training(make_graph()) if gm is None else gm
        self.optimizer = make_optimizer(self.gm)
        self.scheduler = make_scheduler(self.optimizer)
        self.generators: dict[str, RandomSource] = {
            "data": torch.Generator().manual_seed(1),
            "shuffle": random.Random(2),
            "noise": np.random.default_rng(3),
            "old": np.random.RandomState(4),
        }
        self.losses: list[float] = []
        if gm is None:
            random.seed(5)
            np.random.seed(6)
            torch.manual_seed(7)

    def steps(self, count: int) -> None:
        for _ in range(count):
            loss = self.gm(self._batch()).square().mean()
            self.optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.gm.parameters(), 0.5)
            self.optimizer.step()
            remask(self.gm)
            self.scheduler.step()
            self.losses.append(loss.item())

    def _batch(self) -> Tensor:
        data, shuffle, noise, old = self.generators.values()
        assert isinstance(data, torch.Generator)
        assert isinstance(shuffle, random.Random)
        assert isinstance(noise, np.random.Generator)
        assert isinstance(old, np.random.RandomState)
        numbers = [shuffle.random(), noise.random(), old.rand(), random.random(), np.random.rand()]
        return torch.randn(IMAGE, generator=data) + sum(numbers)

    def save(self, path: Path) -> None:
        save_checkpoint(
            path,
            self.gm,
            optimizer=self.optimizer,
            scheduler=self.scheduler,
            generators=self.generators,
            extra={"losses": self.losses},
        )


def resumed(name: str, path: Path) -> Training:
    checkpoint = load_checkpoint(path)
    made = Training(name, checkpoint.graph)
    checkpoint.resume(
        optimizer=made.optimizer, scheduler=made.scheduler, generators=made.generators
    )
    made.losses = checkpoint.extra["losses"]
    return made


def go_on(folder: str, *names: str) -> None:
    """Three more steps of runs whose checkpoints are in a folder."""
    for name in names:
        training = resumed(name, Path(folder) / name)
        training.steps(3)
        training.save(Path(folder) / name)

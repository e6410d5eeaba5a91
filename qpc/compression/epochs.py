"""What is kept after each epoch of training, so that an interrupted step goes on in its middle."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn
from torch.fx import GraphModule
from torch.optim import Optimizer

from qpc.compression.parallel import World
from qpc.ops.affine import BatchNorm
from qpc.ops.movement import Dropout
from qpc.training.checkpoint import Stateful, load_checkpoint, save_checkpoint

_STEP, _EPOCH = "step", "epoch"
_PAUSE = 5.0  # seconds between two checkpoints: shorter epochs are sooner trained again than kept


class Keeper:
    """Keeps the state of one step's training in a folder, or nowhere."""

    def __init__(self, folder: Path | None, step: str, world: World) -> None:
        self._path = None if folder is None else folder / step
        self._step, self._world = step, world
        self._last = time.perf_counter()

    def save(
        self,
        epoch: int,
        gm: GraphModule,
        optimizer: Optimizer,
        scheduler: Stateful | None,
        generators: Mapping[str, torch.Generator],
        modules: Mapping[str, nn.Module],
    ) -> None:
        """Keep everything as it is after `epoch` epochs, unless that was done a moment ago."""

        def write() -> str:
            due = time.perf_counter() - self._last >= _PAUSE
            if due and self._path is not None and self._world.first:
                save_checkpoint(
                    self._path,
                    gm,
                    optimizer=optimizer,
                    scheduler=scheduler,
                    generators=generators,
                    modules=modules,
                    extra={_STEP: self._step, _EPOCH: epoch},
                )
                self._last = time.perf_counter()
            return ""

        self._world.together(write)

    def restore(
        self,
        gm: GraphModule,
        optimizer: Optimizer,
        scheduler: Stateful | None,
        generators: Mapping[str, torch.Generator],
        modules: Mapping[str, nn.Module],
    ) -> int:
        """Put back what was kept, and return the number of epochs that are done."""
        if self._path is None or not self._path.is_dir():
            return 0
        kept = load_checkpoint(self._path)
        _copy(kept.graph, gm)
        # The same, of the graph whose parameters the optimizer has.
        replace(kept, graph=gm).resume(
            optimizer=optimizer, scheduler=scheduler, generators=generators, modules=modules
        )
        return int(kept.extra[_EPOCH])


def _copy(source: GraphModule, gm: GraphModule) -> None:
    """Give `gm` the values of another graph of the same operators, and what is in training."""
    tensors = {**dict(source.named_parameters()), **dict(source.named_buffers())}
    with torch.no_grad():
        for name, tensor in (*gm.named_parameters(), *gm.named_buffers()):
            tensor.copy_(tensors[name])
    for node, twin in zip(gm.graph.nodes, source.graph.nodes, strict=True):
        if (norm := BatchNorm.of(node)) and (other := BatchNorm.of(twin)):
            norm.training = other.training
        elif (drop := Dropout.of(node)) and (as_kept := Dropout.of(twin)):
            drop.train = as_kept.train
    gm.recompile()

"""What the optimizer of one training step leaves to that of the next, in a folder of the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import nn
from torch.fx import GraphModule
from torch.optim import Optimizer

from qpc.compression.parallel import World
from qpc.errors import CompressionError, ConfigError
from qpc.training.checkpoint import load_checkpoint, save_checkpoint


@dataclass
class Carrier:
    """Takes the state of an optimizer from the training step before, and leaves its own.

    source: a checkpoint of the graph and its optimizer after the training step before; None if
    there is none. target: where to leave one; None if no step wants it.
    """

    source: Path | None = None
    target: Path | None = None
    _used: tuple[GraphModule, Optimizer, Mapping[str, nn.Module]] | None = None

    def begin(
        self,
        gm: GraphModule,
        optimizer: Optimizer,
        modules: Mapping[str, nn.Module],
        *,
        fresh: bool,
    ) -> None:
        """Give an optimizer the state of the step before if it is `fresh`, and remember it."""
        self._used = gm, optimizer, modules
        if self.source is None or not fresh:
            return
        try:
            load_checkpoint(self.source).carry_optimizer(optimizer, gm)
        except ConfigError as e:
            raise CompressionError(
                f"the optimizer cannot be carried on: {e.what}",
                fix="train with optimizers of one class, or without carry_optimizer",
            ) from e

    def leave(self, step: str, world: World, *, wanted: bool) -> None:
        """Leave what the optimizer has gathered, once training is done.

        wanted: whether the step was to begin with the state of another. Raises CompressionError if
        it was, and no optimizer has been seen.
        """
        if self._used is None:
            if wanted:
                raise CompressionError(
                    "carry_optimizer needs to know the optimizer, and the training function did "
                    f"not call context.each_epoch (in {step!r})",
                    fix="train with: for epoch in context.each_epoch(gm, optimizer)",
                )
            return
        target, (gm, optimizer, modules) = self.target, self._used

        def write() -> str:
            if target is not None and world.first:
                save_checkpoint(target, gm, optimizer=optimizer, modules=modules)
            return ""

        world.together(write)

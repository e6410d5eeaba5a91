"""What is kept after each epoch of training, so that an interrupted step goes on in its middle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch.fx import GraphModule

from qpc.compression.parallel import World


class Stateful(Protocol):
    """An optimizer, a scheduler, or whatever else gives its state and takes it back."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: dict[str, Any], /) -> object: ...


class Keeper:
    """Keeps the state of one step's training in a folder, or nowhere."""

    def __init__(self, folder: Path | None, step: str, world: World) -> None:
        self._folder, self._step, self._world = folder, step, world

    def save(
        self, epoch: int, gm: GraphModule, kept: Sequence[Stateful], generator: torch.Generator
    ) -> None:
        """Keep everything as it is after `epoch` epochs."""

    def restore(
        self, gm: GraphModule, kept: Sequence[Stateful], generator: torch.Generator
    ) -> int:
        """Put back what was kept, and return the number of epochs that are done."""
        return 0

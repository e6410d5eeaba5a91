"""Several processes that run one recipe together, as `torchrun` starts them.

All go through the same steps. The first one writes; the others read what it wrote from the same
folder, so all must see it. Calibration and training are shared by the data.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from qpc.errors import CompressionError


@dataclass(frozen=True)
class World:
    """The processes: how many there are, and which one this is, from 0."""

    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes."""
        return self.rank == 0

    def shard(self, count: int) -> range:
        """Which of `count` things in a row are this process's, in order, about equally many."""
        return range(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def gather(self, text: str) -> list[str]:
        """The texts of all processes, in order."""
        if self.size == 1:
            return [text]
        own = torch.frombuffer(bytearray(text.encode() or b"\0"), dtype=torch.uint8)
        length = torch.tensor([len(text.encode())])
        lengths = [torch.zeros_like(length) for _ in range(self.size)]
        dist.all_gather(lengths, length)
        longest = max(1, *(int(each) for each in lengths))
        padded = torch.zeros(longest, dtype=torch.uint8)
        padded[: len(own)] = own
        parts = [torch.zeros_like(padded) for _ in range(self.size)]
        dist.all_gather(parts, padded)
        pairs = zip(parts, lengths, strict=True)
        return [part[: int(size)].numpy().tobytes().decode() for part, size in pairs]

    def from_first(self, make: Callable[[], str]) -> str:
        """What the first process makes, on all of them; an error there is one everywhere."""
        return self.together(lambda: make() if self.first else "", 0)

    def together(self, act: Callable[[], str], answer: int | None = None) -> str:
        """Act in every process, wait for all, and return what this one made.

        answer: the process whose result all return. If one fails, all do, so that none waits.
        """
        if self.size == 1:
            return act()
        failure: BaseException | None = None
        text = ""
        try:
            text = act()
        except Exception as e:
            failure = e
        said = "" if failure is None else f"{type(failure).__name__}: {failure}"
        problems = self.gather(said)
        if failure is not None:
            raise failure
        for rank, problem in enumerate(problems):
            if problem:
                raise CompressionError(f"process {rank} failed: {problem}")
        return text if answer is None else self.gather(text)[answer]

    def sum(self, values: Sequence[Tensor]) -> None:
        """Add up tensors over all processes, in place, in one message for each dtype."""
        if self.size == 1:
            return
        for dtype in dict.fromkeys(value.dtype for value in values):
            same = [value for value in values if value.dtype == dtype]
            flat = torch.cat([value.reshape(-1) for value in same])
            dist.all_reduce(flat)
            for value, part in zip(same, flat.split([v.numel() for v in same]), strict=True):
                value.copy_(part.view_as(value))


@contextmanager
def current_world() -> Iterator[World]:
    """The processes of this run: those that torch knows, or that `torchrun` has started.

    In the latter case they are joined, with gloo, until the end. Raises CompressionError if they do
    not find each other.
    """
    if not dist.is_available():
        yield World()
    elif dist.is_initialized():
        yield World(dist.get_rank(), dist.get_world_size())
    elif int(os.environ.get("WORLD_SIZE", "1")) > 1 and "RANK" in os.environ:
        try:
            dist.init_process_group("gloo")
        except (RuntimeError, ValueError) as e:
            raise CompressionError(
                f"the processes did not find each other: {e}", fix="start them with torchrun"
            ) from e
        try:
            yield World(dist.get_rank(), dist.get_world_size())
        finally:
            dist.destroy_process_group()
    else:
        yield World()


def same_everywhere(world: World, what: str, value: str) -> None:
    """Raise CompressionError unless all processes have the same value."""
    values = world.gather(value)
    if len(set(values)) > 1:
        raise CompressionError(
            f"the processes do not agree on {what}",
            fix="start all of them with the same model, recipe and data",
        )

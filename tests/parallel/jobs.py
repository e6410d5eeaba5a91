"""Jobs that tests send to other processes."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from qpc.errors import ConfigError
from qpc.parallel.work import Plain


def product(argument: Plain) -> Plain:
    """The sum of a matrix product that depends on the argument, as exact as floats are."""
    assert isinstance(argument, int)
    generator = torch.Generator().manual_seed(argument)
    matrix = torch.randn(64, 64, generator=generator)
    return [argument, float((matrix @ matrix).sum())]


def refuse(argument: Plain) -> Plain:
    raise ConfigError(f"{argument!r} is not allowed", fix="leave it out")


@dataclass(frozen=True)
class Unlucky:
    """Does `product`, but fails the first `times` times that a job of `jobs` is tried.

    how: "raise" an exception, or "die" as if killed. folder: where attempts are counted.
    """

    folder: str
    jobs: tuple[int, ...]
    times: int = 1
    how: str = "raise"

    def __call__(self, argument: Plain) -> Plain:
        assert isinstance(argument, int)
        with open(Path(self.folder) / str(argument), "a") as file:
            file.write("x")
        tried = len((Path(self.folder) / str(argument)).read_text())
        if argument in self.jobs and tried <= self.times:
            if self.how == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            raise OSError("no luck")
        return product(argument)


@dataclass(frozen=True)
class Endless:
    """Writes the process into a folder, and never ends."""

    folder: str

    def __call__(self, argument: Plain) -> Plain:
        (Path(self.folder) / f"{os.getpid()}").touch()
        while True:
            time.sleep(0.01)

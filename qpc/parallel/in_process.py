"""Jobs in this process, one after the other."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import torch

from qpc.parallel.work import Function, Outcome, Plain, attempt
from qpc.settings import require_count


@dataclass(frozen=True)
class InProcess:
    """Do jobs here, with `threads` threads of PyTorch; None leaves their number as it is.

    Float results of another executor are the same bits if it has the same number of threads.
    """

    threads: int | None = None

    def __post_init__(self) -> None:
        if self.threads is not None:
            require_count("threads", self.threads)

    def open(self, function: Function) -> Here:
        """Get ready."""
        return Here(function, self.threads)


class Here:
    """Jobs here, with another number of threads while it is open."""

    window: int | None = 1
    one_fate = False

    def __init__(self, function: Function, threads: int | None) -> None:
        self._function, self._threads = function, threads

    def submit(self, argument: Plain) -> Future[Outcome]:
        future: Future[Outcome] = Future()
        future.set_result(attempt(self._function, argument))
        return future

    def renew(self) -> None:
        """Nothing is ever lost."""

    def __enter__(self) -> Self:
        self._before = torch.get_num_threads()
        if self._threads is not None:
            torch.set_num_threads(self._threads)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        torch.set_num_threads(self._before)

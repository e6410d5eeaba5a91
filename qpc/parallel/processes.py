"""Jobs in processes of this machine, which `concurrent.futures` keeps busy.

The processes are spawned, not forked, since threads of PyTorch do not survive a fork. Each of them
watches a pipe whose other end this process has alone: when it is written to or closed, which also
happens when this process is killed, the child goes, whatever it is doing. So nothing is left.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import threading
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from types import TracebackType
from typing import Self

import torch

from qpc.errors import BackendError, ConfigError
from qpc.parallel.in_process import InProcess
from qpc.parallel.work import Executor, Function, Outcome, Plain, attempt
from qpc.settings import require_count


@dataclass(frozen=True)
class Processes:
    """Do jobs in `workers` processes, each with `threads` threads of PyTorch.

    As always with spawned processes, a script that uses them must do so under
    `if __name__ == "__main__":`, and what the jobs call must be importable from a module.
    """

    workers: int = 2
    threads: int = 1

    def __post_init__(self) -> None:
        require_count("workers", self.workers)
        require_count("threads", self.threads)

    def open(self, function: Function) -> Spawned:
        """Get ready. Raises ConfigError if the function cannot be sent to another process."""
        try:
            data = pickle.dumps(function)
        except Exception as e:  # whatever the function's parts raise
            raise ConfigError(
                f"the jobs cannot be sent to other processes: {e}",
                fix="define functions at the top of a module, or use one process",
            ) from e
        return Spawned(data, self)


def processes(workers: int) -> Executor:
    """So many processes: this one where that is enough."""
    return Processes(workers) if workers > 1 else InProcess()


class Spawned:
    """Processes that wait for jobs."""

    def __init__(self, function: bytes, settings: Processes) -> None:
        self._function, self._settings = function, settings
        self.window: int | None = settings.workers
        self.one_fate = True

    def submit(self, argument: Plain) -> Future[Outcome]:
        return self._executor.submit(_run, argument)

    def renew(self) -> None:
        self._stop()
        self._start()

    def __enter__(self) -> Self:
        self._start()
        try:
            self._executor.submit(_ready).result()
        except BrokenExecutor as e:
            self._stop()
            raise BackendError(
                f"other processes cannot be started: {e}",
                fix='a script must use them under if __name__ == "__main__":',
            ) from e
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._reader, self._writer = context.Pipe(duplex=False)
        self._executor = ProcessPoolExecutor(
            self._settings.workers,
            context,
            _begin,
            (self._reader, self._function, self._settings.threads),
        )

    def _stop(self) -> None:
        """End the processes, busy or not, and wait until they are gone."""
        self._writer.send_bytes(b"stop")
        self._executor.shutdown(cancel_futures=True)
        self._writer.close()
        self._reader.close()


# --- in the other processes -----------------------------------------------------------------------


def _begin(reader: Connection, function: bytes, threads: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the first process, which stops us
    threading.Thread(target=_end_with, args=(reader,), daemon=True).start()
    torch.set_num_threads(threads)
    globals()["_FUNCTION"] = pickle.loads(function)


def _end_with(reader: Connection) -> None:
    wait([reader])
    os._exit(1)


def _ready() -> None:
    """Say, by returning, that processes start."""


def _run(argument: Plain) -> Outcome:
    function: Function = globals()["_FUNCTION"]
    return attempt(function, argument)

"""Jobs on a Ray cluster, whose scheduler they are left to."""

from __future__ import annotations

import contextlib
import functools
import pickle
from concurrent.futures import Future
from dataclasses import dataclass
from types import ModuleType, TracebackType
from typing import Any, Self

import torch

from qpc.errors import BackendError, MissingDependencyError
from qpc.installing import install_line
from qpc.parallel.work import Function, Outcome, Plain, attempt
from qpc.settings import require_count, require_kind


@dataclass(frozen=True)
class Ray:
    """Do jobs on a Ray cluster, as tasks with `threads` CPUs and threads of PyTorch each.

    address: as `ray.init` takes it; None for a local cluster, which is stopped in the end. A Ray
    that is initialized already is used as it is, and left so.

    QPC, and what the jobs call, must be installed on all machines.
    """

    address: str | None = None
    threads: int = 1

    def __post_init__(self) -> None:
        if self.address is not None:
            require_kind("address", self.address, str, "the address of a cluster")
        require_count("threads", self.threads)

    def open(self, function: Function) -> Cluster:
        """Get ready. Raises MissingDependencyError if Ray is not installed."""
        try:
            import ray
        except ImportError as e:
            raise MissingDependencyError(
                f"Ray cannot be imported: {e}", fix=install_line("ray")
            ) from e
        return Cluster(ray, function, self)


class Cluster:
    """A cluster that takes jobs."""

    window: int | None = None  # Ray has queues of its own
    one_fate = False

    def __init__(self, ray: ModuleType, function: Function, settings: Ray) -> None:
        self._ray, self._function, self._settings = ray, function, settings
        self._running: dict[Future[Outcome], Any] = {}

    def submit(self, argument: Plain) -> Future[Outcome]:
        task = self._task.remote(self._shared, self._settings.threads, argument)
        future: Future[Outcome] = task.future()
        self._running[future] = task
        return future

    def renew(self) -> None:
        """Ray replaces its processes by itself."""

    def __enter__(self) -> Self:
        self._ours = not self._ray.is_initialized()
        if self._ours:
            try:
                self._ray.init(self._settings.address, log_to_driver=False, include_dashboard=False)
            except Exception as e:  # whatever Ray raises about addresses and machines
                raise BackendError(
                    f"no Ray cluster: {e}", fix="check the address, and that the cluster runs"
                ) from e
        try:
            self._shared = self._ray.put(self._ray.cloudpickle.dumps(self._function))
            # Attempts are counted where all executors have them counted.
            remote = self._ray.remote(num_cpus=self._settings.threads, max_retries=0)
            self._task = remote(_run)
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()

    def _close(self) -> None:
        for future, task in self._running.items():
            if not future.done():
                with contextlib.suppress(Exception):  # it may just have ended
                    self._ray.cancel(task, force=True)
        if self._ours:
            self._ray.shutdown()


# --- in the processes of the cluster --------------------------------------------------------------


def _run(function: bytes, threads: int, argument: Plain) -> Outcome:
    torch.set_num_threads(threads)
    return attempt(_loaded(function), argument)


@functools.lru_cache(maxsize=1)  # a process does many jobs, which share what they have prepared
def _loaded(function: bytes) -> Function:
    loaded: Function = pickle.loads(function)
    return loaded

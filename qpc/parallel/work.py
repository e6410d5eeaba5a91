"""One job, done: what is called, and what came of it, as values that travel between processes."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self, TypeAlias

from qpc.errors import QPCError

Plain: TypeAlias = "bool | int | float | str | list[Plain] | dict[str, Plain] | None"
"""What JSON can say."""
Function: TypeAlias = Callable[[Plain], Plain]
"""What all jobs call: it can be pickled, and is given the argument of a job."""


@dataclass(frozen=True)
class Done:
    """A job that is done."""

    result: Plain


@dataclass(frozen=True)
class Failed:
    """A job that failed, and may do better another time; `why` in one line, `details` in many."""

    why: str
    details: str


@dataclass(frozen=True)
class Refused:
    """A job that will always fail: QPC says that something is wrong with what it was given."""

    error: QPCError


Outcome: TypeAlias = Done | Failed | Refused


class Pool(Protocol):
    """Where jobs are done, open as long as they are.

    window: how many jobs to hand out at a time; None for all of them.
    one_fate: whether all running jobs are lost with the process of one of them.
    """

    window: int | None
    one_fate: bool

    def submit(self, argument: Plain) -> Future[Outcome]:
        """Begin a job. A future that raises an Exception says that its process was lost."""
        ...

    def renew(self) -> None:
        """Get ready again after a process was lost."""
        ...

    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class Executor(Protocol):
    """A way to do jobs: `InProcess`, `Processes`, `Ray`, or one of your own."""

    def open(self, function: Function) -> Pool:
        """Get ready for jobs that call `function`, until the pool is closed.

        When it is closed, nothing that it started runs any more, whatever has happened.
        """
        ...


def attempt(function: Function, argument: Plain) -> Outcome:
    """Do a job here."""
    try:
        return Done(function(argument))
    except QPCError as e:
        return Refused(_portable(e))
    except (Exception, SystemExit) as e:
        return Failed(f"{type(e).__name__}: {e}", traceback.format_exc())


def _portable(error: QPCError) -> QPCError:
    """The same error without the node, which would take its whole graph along."""
    if error.node is None:
        return error
    made = type(error)(error.what, fix=error.fix)
    made.__notes__ = list(getattr(error, "__notes__", []))
    return made

"""What came of one random network: it agrees, it was refused with a reason, or there is a fault."""

from __future__ import annotations

import re
import traceback
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Literal

from qpc.errors import InvariantError, QPCError

Verdict = Literal["agrees", "refused", "fault"]


@dataclass(frozen=True)
class Outcome:
    """The verdict on one seed.

    where: the stage that refused or failed; empty if all agree.
    reason: the message, without the numbers and names that differ from network to network.
    details: everything that there is to say.
    """

    verdict: Verdict
    where: str = ""
    reason: str = ""
    details: str = ""


class DifferenceError(AssertionError):
    """Two values that should be equal are not."""


class RefusedError(Exception):
    """A stage said no, with a reason."""

    def __init__(self, stage: str, error: QPCError) -> None:
        super().__init__(stage, error.what)
        self.stage, self.error = stage, error


class may_refuse(AbstractContextManager[None]):  # noqa: N801  # reads as a statement
    """Around a stage that may say no: a QPCError inside is a refusal, not a fault."""

    def __init__(self, stage: str) -> None:
        self._stage = stage

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, QPCError) and not _is_a_fault(error):
            raise RefusedError(self._stage, error) from error


def _is_a_fault(error: QPCError) -> bool:
    """A broken promise, an unexpected exception in a pass that only got a wrapping, wrong code."""
    unexpected = error.__cause__ is not None and error.what.startswith("pass ")
    wrong_code = "LLVM module verification failed" in error.what
    return isinstance(error, InvariantError) or unexpected or wrong_code


def outcome_of(check: Callable[[], None]) -> Outcome:
    """Run a check that raises `RefusedError`, `DifferenceError`, or what it should not."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch's, about the networks
            check()
    except RefusedError as e:
        return Outcome("refused", e.stage, in_general(e.error.what), e.error.full_text)
    except Exception as e:
        where = f"a raw {type(e).__name__}"
        if isinstance(e, DifferenceError):
            where = "a wrong NaN" if "NaN" in str(e) else "a wrong value"
        return Outcome("fault", where, in_general(str(e)), traceback.format_exc())
    return Outcome("agrees")


def in_general(message: str) -> str:
    """A message without what differs from network to network."""
    first = message.strip().splitlines()[0] if message.strip() else ""
    return re.sub(r"'[^']*'|\d[\d.e+-]*|\bv?\w*_\d+\b", "...", first)[:150]

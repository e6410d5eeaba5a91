"""What a command has found out, for people and for programs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

Shown: TypeAlias = "RenderableType | Callable[[Console], None]"
"""A text, which is printed as it is, anything that rich can print, or a function that prints."""


@dataclass(frozen=True)
class Answer:
    """What is printed at the end of a command.

    data: values for JSON; None if another process speaks. shown: the same for people. notes: what
    could not be done, for stderr. then: commands to type next. problem: why the command has failed
    although there is an answer; empty if it has not. status: how the command ends.
    """

    data: Mapping[str, Any] | None
    shown: tuple[Shown, ...] = ()
    notes: tuple[str, ...] = ()
    then: tuple[str, ...] = ()
    problem: str = ""
    status: int = 0

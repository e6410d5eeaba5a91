"""Commands that are proposed can be pasted into a shell."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from qpc.terminal.hints import again, quoted


@dataclass(frozen=True)
class Written:
    model: str
    input: list[str] | None = field(default=None)
    weights: Path | None = None


def test_a_model_is_written_as_it_was_given() -> None:
    assert again(Written("net.py:model")) == "net.py:model"
    whole = Written("my net.py:model", ["1x3", "int64:1x5"], Path("w's.pt"))
    assert again(whole) == (
        "'my net.py:model' --input 1x3 --input int64:1x5 --weights 'w'\"'\"'s.pt'"
    )


def test_a_model_that_was_kept_is_its_folder() -> None:
    assert again(Written("net.py:model", ["1x3"]), Path("my run")) == "'my run'"
    assert quoted(Path("run")) == "run"

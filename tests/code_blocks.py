"""Run the Python blocks of a Markdown page, as a reader would type them one after the other.

A `text` block directly after a `python` block is what the latter prints.
"""

from __future__ import annotations

import contextlib
import io
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

_FENCE = "```"


@dataclass(frozen=True)
class Block:
    """line: where the first line of the code stands in the page, from 1."""

    language: str
    line: int
    text: str


def blocks_of(page: str) -> list[Block]:
    """Every fenced block of a page."""
    found: list[Block] = []
    inside: list[str] | None = None
    start, language = 0, ""
    for number, line in enumerate(page.splitlines(), start=1):
        if not line.startswith(_FENCE):
            if inside is not None:
                inside.append(line)
        elif inside is None:
            inside, start, language = [], number + 1, line.removeprefix(_FENCE).strip()
        else:
            found.append(Block(language, start, "\n".join(inside)))
            inside = None
    if inside is not None:
        raise ValueError(f"the block at line {start} does not end")
    return found


def run_page(path: Path) -> int:
    """Run a page's Python blocks in one namespace, compare what they print, return their number."""
    blocks = blocks_of(path.read_text(encoding="utf-8"))
    module = ModuleType(path.stem.replace("-", "_").lower())
    sys.modules[module.__name__] = module  # dataclasses look their own module up
    count = 0
    try:
        for block, following in zip(blocks, [*blocks, None][1:], strict=True):
            if block.language != "python":
                continue
            printed = _run(block, path, module)
            count += 1
            if following is not None and following.language == "text":
                assert printed.rstrip() == following.text.rstrip(), (
                    f"{path.name}, line {block.line}: the block printed\n{printed}"
                )
    finally:
        del sys.modules[module.__name__]
    return count


def _run(block: Block, path: Path, module: ModuleType) -> str:
    code = compile("\n" * (block.line - 1) + block.text, str(path), "exec")
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(code, module.__dict__)
    return output.getvalue()

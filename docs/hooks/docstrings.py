"""Docstrings as Markdown: what stands there line by line about arguments becomes a list."""

from __future__ import annotations

import re
from typing import Any

import griffe

_ABOUT = re.compile(r"([a-z_]\w*(?:, [a-z_]\w*)*): (.*)")
_INDENTED = "    "


def listed(text: str) -> str:
    """The text, in which lines such as `name: what it is` are items of a list.

    Lines after such a line belong to it, up to the next empty one.
    """
    lines: list[str] = []
    inside = False
    for line in text.splitlines():
        about = _ABOUT.fullmatch(line)
        if about:
            names = ", ".join(f"`{name}`" for name in about[1].split(", "))
            lines += [*([] if inside else [""]), f"- {names}: {about[2]}"]
            inside = True
        elif inside and line.strip():
            lines.append(_INDENTED + line)
        else:
            inside = False
            lines.append(line)
    return "\n".join(lines)


class Listed(griffe.Extension):
    """Makes lists of arguments in all docstrings."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Change the docstring of whatever was found."""
        if obj.docstring is not None:
            obj.docstring.value = listed(obj.docstring.value)

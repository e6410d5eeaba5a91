"""Names that a graph cannot have: `torch.fx` makes Python source of a graph, and a module of it."""

from __future__ import annotations

import keyword
import re
import unicodedata

from torch import nn
from torch.fx import GraphModule

_PART = re.compile(r"[\w\-+ :/@=,#]+")
_OF_MODULES = frozenset(dir(nn.Module)) | frozenset(vars(nn.Module()))
_OF_GRAPHS = _OF_MODULES | frozenset({*dir(GraphModule), "meta", "_graph", "_code"})


def is_plain_name(text: str) -> bool:
    """Whether Python takes a text for a name, and for no other: it normalizes them."""
    plain = text.isidentifier() and text == unicodedata.normalize("NFKC", text)
    return plain and not keyword.iskeyword(text)


def why_no_path(path: str) -> str | None:
    """Why no submodule, parameter or buffer of a graph can have this path; None if it can."""
    for position, part in enumerate(path.split(".")):
        if part in (_OF_MODULES if position else _OF_GRAPHS):
            return f"{part!r} is an attribute of every {'module' if position else 'graph'}"
        if not _PART.fullmatch(part) or (part.isidentifier() and not is_plain_name(part)):
            return f"{part[:50]!r} cannot be written in Python"
    return None

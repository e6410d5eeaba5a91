"""Which private names a package uses."""

from __future__ import annotations

import ast
from pathlib import Path


def private_names(package: Path) -> set[str]:
    """The names with an underscore in front that files of a folder import, read or define."""
    used: list[str] = []
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Attribute):
                used.append(node.attr)
            elif isinstance(node, ast.FunctionDef):
                used.append(node.name)
            elif isinstance(node, ast.ImportFrom):
                used += [*(node.module or "").split("."), *(alias.name for alias in node.names)]
    return {name for name in used if name.startswith("_") and not name.endswith("__")}

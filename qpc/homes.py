"""The homes of operators: the modules of `qpc.ops`, found by looking into the folder.

A file that is put there needs no entry in any list. What is known about operators stands above the
tools that walk graphs, which ask the registry for it, and so never import a home by name.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from types import ModuleType

_PACKAGE = "qpc.ops"


@cache
def all_homes() -> tuple[ModuleType, ...]:
    """All homes, imported, by their names; this defines the operators `qpc::...` in PyTorch."""
    package = importlib.import_module(_PACKAGE)
    names = sorted(module.name for module in pkgutil.iter_modules(package.__path__))
    return tuple(importlib.import_module(f"{_PACKAGE}.{name}") for name in names)

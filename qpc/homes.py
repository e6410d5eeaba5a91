"""The homes of operators: the modules of `qpc.ops`, found by looking into the folder.

A file that is put there needs no entry in any list. What is known about operators stands above the
tools that walk graphs, which ask the registry for it, and so never import a home by name.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from functools import cache
from types import ModuleType

_PACKAGE = "qpc.ops"


@cache
def all_homes() -> tuple[ModuleType, ...]:
    """All homes, imported, by their names; this defines the operators `qpc::...` in PyTorch."""
    return tuple(modules_of(_PACKAGE))


def modules_of(package: str) -> Iterator[ModuleType]:
    """The modules that lie in a package, imported one after the other by their names."""
    path = importlib.import_module(package).__path__
    for name in sorted(module.name for module in pkgutil.iter_modules(path)):
        yield importlib.import_module(f"{package}.{name}")

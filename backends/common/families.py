"""Tables of rules, one in the file of each family of operators, found by looking into a folder."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable, Iterator, Mapping
from types import ModuleType
from typing import TypeVar

_T = TypeVar("_T")


def families(package: str) -> Iterator[ModuleType]:
    """The modules of a package that have a table `RULES`, by name.

    A file that is put there needs no entry in any list.
    """
    path = importlib.import_module(package).__path__
    for name in sorted(module.name for module in pkgutil.iter_modules(path)):
        module = importlib.import_module(f"{package}.{name}")
        if hasattr(module, "RULES"):
            yield module


def merged(tables: Iterable[Mapping[object, _T]]) -> dict[object, _T]:
    """Tables of rules by operator as one. Raises ValueError if an operator is in two of them."""
    found: dict[object, _T] = {}
    for table in tables:
        if twice := found.keys() & table.keys():
            raise ValueError(f"two rules for {', '.join(sorted(map(str, twice)))}")
        found |= table
    return found

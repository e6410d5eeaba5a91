"""Tables of rules, one in the file of each family of operators, found by looking into a folder."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from types import ModuleType
from typing import TypeVar

from qpc.errors import BackendError
from qpc.homes import modules_of

_T = TypeVar("_T")


def families(package: str) -> Iterator[ModuleType]:
    """The modules of a package that have a table `RULES`, by name.

    A file that is put there needs no entry in any list.
    """
    return (module for module in modules_of(package) if hasattr(module, "RULES"))


def merged(tables: Iterable[Mapping[object, _T]]) -> dict[object, _T]:
    """Tables of rules by operator as one. Raises ValueError if an operator is in two of them."""
    found: dict[object, _T] = {}
    for table in tables:
        if twice := found.keys() & table.keys():
            raise ValueError(f"two rules for {', '.join(sorted(map(str, twice)))}")
        found |= table
    return found


def require_foreign(operator: object, brings: str) -> None:
    """Raise BackendError for what is no operator of another package.

    brings: what the package registers for it, such as "machine code".
    """
    from torch._ops import OpOverload  # the TVM backend is imported before torch is

    if not isinstance(operator, OpOverload):
        raise BackendError(
            f"{operator!r} is no operator overload",
            fix="name the overload, as in torch.ops.mylib.square.default",
        )
    if operator.namespace == "qpc":
        raise BackendError(f"{operator} is QPC's own operator, and has {brings} already")

"""What rules for float operators have in common: types and constants of Relax expressions.

A rule takes the call's arguments by schema name, with Relax tensors in place of tensors, and
returns a Relax expression, or None for arguments that it does not cover.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tvm import relax

Rule = Callable[[Mapping[str, Any]], "relax.Expr | None"]


def dtype_of(x: relax.Expr) -> str:
    """The name of the type of a tensor's elements."""
    return str(x.ty.dtype.dtype)


def is_float(x: relax.Expr) -> bool:
    """Whether a tensor holds floats."""
    return "float" in dtype_of(x)


def like(value: float, x: relax.Expr) -> relax.Expr:
    """A number as a constant of the type of `x`."""
    return relax.const(value, dtype_of(x))


def per_axis(value: int | Sequence[int], x: relax.Expr) -> list[int]:
    """One number for each axis behind batch and channels."""
    axes = int(x.ty.ndim) - 2
    given = [value] if isinstance(value, int) else list(value)
    return given * axes if len(given) == 1 else given

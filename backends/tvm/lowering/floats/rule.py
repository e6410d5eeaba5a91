"""What rules for float operators are, and what they have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tvm import relax

if TYPE_CHECKING:  # it knows what rules are
    from qpc.backends.tvm.lowering.floats.call import FloatCall

Arguments = Mapping[str, Any]
"""A call's arguments by schema name, with Relax tensors in place of tensors."""

Rule = Callable[[Arguments], "relax.Expr | None"]
"""Returns a Relax expression, or None for arguments that it does not cover."""

BuilderRule = Callable[[relax.BlockBuilder, Arguments], "relax.Expr | None"]
"""The same, for a rule that writes a function of its own with the builder."""

KernelWriter = Callable[["FloatCall"], "relax.Expr | None"]
"""The same, for a rule that calls a kernel of our own."""


@dataclass(frozen=True)
class FloatRule:
    """How an operator becomes Relax: the first of these that covers the arguments, in this order.

    own: in place of TVM's importer of PyTorch operators, which lacks the operator or gets it wrong;
    what this does not cover, PyTorch decomposes. kernel: a kernel of our own, for float32; it comes
    first. truths: for truth values. writes: as `own`, with a function of its own; what this does
    not cover, the importer may. importer: TVM's importer is right about it, which a test shows by
    comparing it with PyTorch: it gets some operators wrong without saying so. decomposition:
    simpler operators, in place of PyTorch's decomposition.
    """

    own: Rule | None = None
    kernel: KernelWriter | None = None
    truths: Rule | None = None
    writes: BuilderRule | None = None
    importer: bool = False
    decomposition: Callable[..., Any] | None = None


IMPORTED = FloatRule(importer=True)


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
    return on_axes(value, int(x.ty.ndim) - 2)


def on_axes(value: int | Sequence[int], axes: int) -> list[int]:
    """One number for each of so many axes."""
    given = [value] if isinstance(value, int) else list(value)
    return given * axes if len(given) == 1 else given


def shape_of(x: relax.Expr) -> list[int]:
    """The sizes of a tensor's axes."""
    return [int(size) for size in x.ty.shape]

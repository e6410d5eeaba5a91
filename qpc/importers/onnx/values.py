"""What the operators of an ONNX model work on while it runs, and one of its nodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor

from qpc.errors import UnsupportedOpError

Sizes: TypeAlias = list[Any]
"""Whole numbers along one axis, which may depend on the batch size: what shapes are made of."""
Value: TypeAlias = Any
"""A tensor, `Sizes`, one whole number, or None for an input that is not there."""
Rule: TypeAlias = Callable[..., Value]
"""From a call and its inputs to its output, or a tuple of outputs."""
_MOST_SIZES = 4096
"""Whole numbers that stand beside each other as `Sizes`; shapes have few."""


@dataclass(frozen=True)
class Call:
    """One node.

    opset: of the model, which says what the operator means. about: its metadata.
    """

    kind: str
    name: str
    opset: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    about: Mapping[str, str] = field(default_factory=dict)

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute."""
        return self.attributes.get(name, default)

    def refuse(self, why: str) -> UnsupportedOpError:
        """The error for what QPC does not read."""
        return UnsupportedOpError(f"{self.kind} of opset {self.opset} at {self.name!r}: {why}")

    def require(self, name: str, *values: Any) -> None:
        """Raise UnsupportedOpError if an attribute is there and has another value."""
        found = self.get(name, values[0])
        if found not in values:
            raise self.refuse(f"{name}={found!r} is not read")


def as_tensor(value: Value) -> Tensor:
    """A value as a tensor, where it is one or a constant."""
    return value if isinstance(value, Tensor) else torch.tensor(value)


def as_sizes(value: Value) -> Sizes:
    """A value as whole numbers, where it is one-dimensional or one number."""
    if isinstance(value, Tensor):
        value = value.tolist()
    return list(value) if isinstance(value, list | tuple) else [value]


def few(call: Call, count: Any) -> Any:
    """A count of whole numbers that are to be made, which are not tensors; raises for many."""
    if isinstance(count, int) and not 0 <= count <= _MOST_SIZES:
        raise call.refuse(f"it would make {count} numbers")
    return count


def axes_of(call: Call, given: Value, rank: int) -> list[int]:
    """Axes, which are an input or an attribute as the opset says; all of them if there are none."""
    found = as_sizes(given) if given is not None else call.get("axes")
    if not found:
        return [] if call.get("noop_with_empty_axes", 0) else list(range(rank))
    return [axis % rank for axis in found]

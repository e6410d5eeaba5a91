"""What the operators of an ONNX model work on while it runs, and one of its nodes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from qpc.errors import UnsupportedOpError

Sizes: TypeAlias = list[Any]
"""Whole numbers along one axis, which may depend on the batch size: what shapes are made of."""
Value: TypeAlias = Any
"""A tensor, `Sizes`, one whole number, or None for an input that is not there."""


@dataclass(frozen=True)
class Call:
    """One node. opset: of the model, which says what the operator means."""

    kind: str
    name: str
    opset: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]

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

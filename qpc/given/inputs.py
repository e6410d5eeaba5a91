"""Inputs of a model, written as `1x3x224x224`, `1x16:int64` or `tokens=1x16:int64`."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qpc.errors import ConfigError
from qpc.types import dtype_name, dtype_of

_FORM = re.compile(r"(?:(?P<name>[A-Za-z_]\w*)=)?(?P<shape>\d+(?:x\d+)*)(?::(?P<dtype>\w+))?")
_FIX = "write --input 1x3x224x224, --input 1x16:int64 or --input tokens=1x16:int64"
_MOST_VALUES = 2**31  # of one input; more is a slip of the keyboard


@dataclass(frozen=True)
class Input:
    """One input: name, if it is given by name; shape with the batch as its first axis; dtype."""

    name: str | None
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def written(self) -> str:
        """The input as it is written."""
        name = f"{self.name}=" if self.name else ""
        dtype = "" if self.dtype is torch.float32 else f":{dtype_name(self.dtype)}"
        return f"{name}{'x'.join(map(str, self.shape))}{dtype}"

    def example(self, generator: torch.Generator) -> Tensor:
        """Random values: floats from a normal distribution; zeros of any other kind.

        Zero is a number that every embedding has, and every mask.
        """
        if self.dtype.is_floating_point:
            return torch.randn(self.shape, generator=generator).to(self.dtype)
        return torch.zeros(self.shape, dtype=self.dtype)


def inputs_of_text(texts: Sequence[str]) -> tuple[Input, ...]:
    """The inputs that are written. Raises ConfigError for what is none."""
    made = tuple(map(_input, texts))
    names = [each.name for each in made if each.name is not None]
    if names and len(names) < len(made):
        raise ConfigError("either all inputs have names or none", fix=_FIX)
    if len(set(names)) < len(names):
        raise ConfigError("two inputs have the same name", fix=_FIX)
    return made


def examples(inputs: Sequence[Input]) -> tuple[Tensor, ...] | dict[str, Tensor]:
    """Random values for all inputs, the same every time, as `qpc.trace` takes them."""
    generator = torch.Generator().manual_seed(0)
    made = [each.example(generator) for each in inputs]
    if inputs and inputs[0].name is not None:
        return {str(each.name): value for each, value in zip(inputs, made, strict=True)}
    return tuple(made)


def _input(text: str) -> Input:
    found = _FORM.fullmatch(text.strip())
    if found is None:
        raise ConfigError(f"the input {text!r} is no shape", fix=_FIX)
    shape = tuple(map(int, found["shape"].split("x")))
    if 0 in shape or math.prod(shape) > _MOST_VALUES:
        raise ConfigError(f"the input {text!r} has {math.prod(shape):,} values", fix=_FIX)
    dtype = dtype_of(found["dtype"] or "float32")
    if dtype is None:
        raise ConfigError(
            f"the input {text!r} has an unknown dtype {found['dtype']!r}",
            fix="use float32, float16, int64, int32, uint8, bool or another of PyTorch's",
        )
    return Input(found["name"], shape, dtype)

"""Nested values of a training run as JSON, with their tensors beside it, and back.

What JSON has no form for becomes an object with one key, as in `qpc.storage.values`. Nothing that
is read decides which code runs: there is a closed list of kinds, all of them data.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

_DEPTH = 16  # of values within values
_NO_NUMBERS = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}


@dataclass(frozen=True)
class StateWriter:
    """Encodes values one after the other; `tensors` collects theirs by the names they are given."""

    tensors: dict[str, Tensor] = field(default_factory=dict)

    def encode(self, value: object, where: str, depth: int = _DEPTH) -> Any:
        """A value as JSON. Raises TypeError, which says where it was, for what has no form."""
        if depth == 0:
            raise TypeError(f"{where} is nested too deeply")
        if isinstance(value, float) and not math.isfinite(value):
            return {"float": str(float(value))}
        if value is None or type(value) in (bool, int, float, str):
            return value
        if isinstance(value, Tensor):
            return {"tensor": self._stored(value, where)}
        if isinstance(value, np.ndarray | np.generic):
            return {"numpy": self._of_numpy(value, where)}
        if isinstance(value, bytes):
            return {"bytes": value.hex()}
        if type(value) in (list, tuple):
            assert isinstance(value, list | tuple)
            items = [self.encode(v, f"{where}[{i}]", depth - 1) for i, v in enumerate(value)]
            return items if isinstance(value, list) else {"tuple": items}
        if isinstance(value, Mapping):
            kind = "counter" if isinstance(value, Counter) else "dict"
            return {kind: [self._pair(k, v, where, depth) for k, v in value.items()]}
        raise TypeError(f"{where} is a {type(value).__name__}, which is no plain data")

    def _pair(self, key: object, value: object, where: str, depth: int) -> list[Any]:
        if type(key) not in (str, int):
            raise TypeError(f"{where} has the key {key!r}; keys are str or int")
        return [key, self.encode(value, f"{where}[{key!r}]", depth - 1)]

    def _stored(self, value: Tensor, where: str) -> str:
        if value.layout is not torch.strided or value.is_quantized or value.is_meta:
            raise TypeError(f"{where} is a tensor without plain values")
        self.tensors[where] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        return where

    def _of_numpy(self, value: np.ndarray[Any, Any] | np.generic, where: str) -> str:
        try:
            return self._stored(torch.from_numpy(np.array(value)), where)
        except TypeError as e:
            raise TypeError(f"{where} is of NumPy, and no numbers of a plain type") from e


def decode(value: Any, tensors: Mapping[str, Tensor], depth: int = _DEPTH) -> Any:
    """The value that `StateWriter.encode` was given. Raises ValueError for anything else."""
    if depth == 0:
        raise ValueError("values are nested too deeply")
    if isinstance(value, list):
        return [decode(v, tensors, depth - 1) for v in value]
    if not isinstance(value, dict):
        return value
    if len(value) != 1:
        raise ValueError("a value has one kind")
    ((kind, content),) = value.items()
    if kind in ("tensor", "numpy"):
        if not isinstance(content, str) or content not in tensors:
            raise ValueError(f"there is no tensor {str(content)[:100]!r}")
        return tensors[content] if kind == "tensor" else tensors[content].numpy()[()]
    if kind == "tuple" and isinstance(content, list):
        return tuple(decode(v, tensors, depth - 1) for v in content)
    if kind in _MAPPINGS and isinstance(content, list):
        return _MAPPINGS[kind](_mapping(content, tensors, depth - 1))
    if kind == "float" and content in _NO_NUMBERS:
        return _NO_NUMBERS[content]
    if kind == "bytes" and isinstance(content, str):
        return bytes.fromhex(content)
    raise ValueError(f"unknown value of kind {kind[:100]!r}")


_MAPPINGS: dict[str, Callable[[dict[Any, Any]], Any]] = {"dict": dict, "counter": Counter}


def _mapping(pairs: list[Any], tensors: Mapping[str, Tensor], depth: int) -> dict[Any, Any]:
    found = {}
    for pair in pairs:
        if not isinstance(pair, list) or len(pair) != 2 or type(pair[0]) not in (str, int):
            raise ValueError("a dictionary has pairs of a key and a value")
        found[pair[0]] = decode(pair[1], tensors, depth)
    if len(found) != len(pairs):
        raise ValueError("two entries have one key")
    return found

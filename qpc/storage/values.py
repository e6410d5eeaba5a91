"""Arguments of operators as JSON. What JSON has no form for becomes an object with one key."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.fx import Node

from qpc.types import dtype_name, dtype_of

_DEPTH = 16  # of lists in lists
_FORMATS = {
    str(f): f
    for f in (
        torch.contiguous_format,
        torch.preserve_format,
        torch.channels_last,
        torch.channels_last_3d,
    )
}


def encode(value: object) -> Any:
    """An argument as JSON. Raises TypeError for what has no form."""
    if isinstance(value, Node):
        return {"node": value.name}
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple):
        return {"tuple": [encode(v) for v in value]}
    if isinstance(value, list):
        return [encode(v) for v in value]
    if isinstance(value, Mapping):
        return {"dict": [[encode(k), encode(v)] for k, v in value.items()]}
    if isinstance(value, torch.dtype):
        return {"dtype": dtype_name(value)}
    if isinstance(value, torch.memory_format):
        return {"memory_format": str(value)}
    if value is torch.strided:
        return {"layout": "strided"}
    if isinstance(value, torch.device):
        return {"device": str(value)}
    raise TypeError(f"a value of type {type(value).__name__} cannot be saved")


def decode(value: Any, nodes: Mapping[str, Node], depth: int = _DEPTH) -> Any:
    """The argument that `encode` was given. Raises ValueError for anything else.

    nodes: those that may be named, by their names.
    """
    if depth == 0:
        raise ValueError("lists are nested too deeply")
    if isinstance(value, list):
        return [decode(v, nodes, depth - 1) for v in value]
    if not isinstance(value, dict):
        return value
    if len(value) != 1:
        raise ValueError("a value has one kind")
    ((kind, content),) = value.items()
    if kind == "tuple" and isinstance(content, list):
        return tuple(decode(v, nodes, depth - 1) for v in content)
    if kind == "dict" and isinstance(content, list):
        return _dict(content, nodes, depth - 1)
    if kind == "node" and isinstance(content, str):
        if content not in nodes:
            raise ValueError(f"no node {content[:100]!r} stands before it")
        return nodes[content]
    if kind in _KINDS and isinstance(content, str):
        found = _KINDS[kind](content)
        if found is not None:
            return found
    raise ValueError(f"unknown value of kind {kind[:100]!r}")


def _dict(pairs: list[Any], nodes: Mapping[str, Node], depth: int) -> dict[str | int, Any]:
    found: dict[str | int, Any] = {}
    for pair in pairs:
        if not isinstance(pair, list) or len(pair) != 2 or type(pair[0]) not in (str, int):
            raise ValueError("a dictionary has pairs of a key and a value")
        found[pair[0]] = decode(pair[1], nodes, depth)
    if len(found) != len(pairs):
        raise ValueError("two entries have one key")
    return found


def _device(name: str) -> torch.device:
    """The CPU, where graphs are loaded and run; a call would fail on any other device."""
    if name != "cpu":
        raise ValueError(f"a saved graph computes on the CPU, not on {name[:40]!r}")
    return torch.device(name)


_KINDS: dict[str, Callable[[str], object]] = {
    "float": {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}.get,
    "dtype": dtype_of,
    "memory_format": _FORMATS.get,
    "layout": {"strided": torch.strided}.get,
    "device": _device,
}

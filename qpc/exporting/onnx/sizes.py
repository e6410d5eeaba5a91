"""Types of values in a model whose batch size may be open."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch.fx import GraphModule, Node

from qpc.errors import PassError
from qpc.shapes import noted_shapes
from qpc.types import BatchDim, Concrete, Dim, Shape, TensorType

_PROBES = (3, 5)  # two batch sizes through which a line is fitted


@dataclass(frozen=True)
class ValueType:
    """The shape, in terms of the batch size, and the dtype of a tensor."""

    shape: Shape
    dtype: torch.dtype


OpenType = ValueType | int | float | bool | BatchDim | tuple["OpenType", ...] | None
"""What a node yields: a tensor, a number, a size that depends on the batch, or several."""


def value_types(gm: GraphModule, batch: int | None) -> Mapping[Node, OpenType]:
    """What every node of a core-form graph yields, at one batch size or, with None, at any."""
    if batch is not None:
        fixed = noted_shapes(gm, batch)
        return {node: _joined(found, found, 0) for node, found in fixed.items()}
    small, large = (noted_shapes(gm, size) for size in _PROBES)
    found: dict[Node, OpenType] = {}
    for node in gm.graph.nodes:
        try:
            found[node] = _joined(small[node], large[node], _PROBES[1] - _PROBES[0])
        except ValueError as e:
            raise PassError(str(e), node=node) from e
    return found


def _joined(small: Concrete, large: Concrete, more: int) -> OpenType:
    if isinstance(small, TensorType) and isinstance(large, TensorType):
        sizes = zip(small.shape, large.shape, strict=True)
        return ValueType(tuple(_size(a, b, more) for a, b in sizes), small.dtype)
    if isinstance(small, tuple) and isinstance(large, tuple):
        return tuple(_joined(a, b, more) for a, b in zip(small, large, strict=True))
    if type(small) is int and type(large) is int:
        return _size(small, large, more)
    return small if isinstance(small, int | float | bool) else None


def _size(small: int, large: int, more: int) -> Dim:
    if small == large:
        return small
    factor, rest = divmod(large - small, more)
    if rest:
        raise ValueError("a dimension does not grow linearly with the batch size")
    return BatchDim(factor, small - factor * _PROBES[0])

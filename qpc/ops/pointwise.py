"""Functions of one value at a time, which become tables."""

from __future__ import annotations

import torch
from torch import Tensor

from qpc.library import define
from qpc.registry import OpSpec, Role, specs_of_names


def _lookup(q: Tensor, table: Tensor) -> Tensor:
    return table[q.to(torch.int64) - torch.iinfo(q.dtype).min]


def _fake_lookup(q: Tensor, table: Tensor) -> Tensor:
    return torch.empty_like(q, dtype=table.dtype)


LOOKUP = define(
    "lookup(Tensor q, Tensor table) -> Tensor",
    _lookup,
    _fake_lookup,
)


_NAMES = """
sigmoid tanh silu hardswish hardsigmoid gelu leaky_relu elu softplus mish exp sqrt abs neg celu selu
prelu log_sigmoid hardshrink softshrink threshold square pow.Tensor_Scalar reciprocal rsqrt exp2
expm1 log log1p log2 erf sin cos atan sinh cosh floor ceil round trunc sign
"""
SPECS = (
    *specs_of_names(_NAMES, Role.POINTWISE),
    OpSpec(LOOKUP, "lookup"),
)

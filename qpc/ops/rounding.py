"""From float to integers and back; observers and fake quantization, which lead there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor

from qpc.errors import PassError
from qpc.library import LIBRARY, define, like_first
from qpc.quant.arithmetic import clamp_round, float32, reciprocal, require_sizes
from qpc.registry import OpSpec

_GRAPH = "the graph was made for inputs"


def _quantize(
    x: Tensor,
    scale: float,
    zero_point: int,
    lo: int,
    hi: int,
    dtype: torch.dtype,
    sizes: Sequence[int] | None = None,
) -> Tensor:
    """`sizes`: of the axes behind the first, where the graph is right for no others."""
    require_sizes(x, sizes, _GRAPH)
    return clamp_round(x * float32(reciprocal(scale)), zero_point, lo, hi).to(dtype)


def _fake_quantize(
    x: Tensor,
    scale: float,
    zero_point: int,
    lo: int,
    hi: int,
    dtype: torch.dtype,
    sizes: Sequence[int] | None = None,
) -> Tensor:
    require_sizes(x, sizes, _GRAPH)
    return torch.empty_like(x, dtype=dtype)


QUANTIZE = define(
    "quantize(Tensor x, float scale, int zero_point, int lo, int hi, ScalarType dtype,"
    " int[]? sizes=None) -> Tensor",
    _quantize,
    _fake_quantize,
)


def _dequantize(q: Tensor, scale: float, zero_point: int) -> Tensor:
    return (q.to(torch.int32) - zero_point).to(torch.float32) * float32(scale)


def _fake_dequantize(q: Tensor, scale: float, zero_point: int) -> Tensor:
    return torch.empty_like(q, dtype=torch.float32)


DEQUANTIZE = define(
    "dequantize(Tensor q, float scale, int zero_point) -> Tensor",
    _dequantize,
    _fake_dequantize,
)


def _observe(x: Tensor, observer: str) -> Tensor:
    return x.clone()


OBSERVE = define(
    "observe(Tensor x, str observer) -> Tensor",
    _observe,
    like_first,
)


def _along(x: Tensor, values: Tensor, axis: int, groups: int) -> Tensor:
    """`values` in a shape that broadcasts over `x`."""
    shape = [1] * x.dim()
    if values.numel() == 1:
        return values.reshape(shape)
    shape[axis] = x.shape[axis]
    if groups == 1:
        return values.reshape(shape)
    shape[0] = groups
    return values.reshape(shape).repeat_interleave(x.shape[0] // groups, 0)


def _fake_quant(
    x: Tensor, scale: Tensor, zero_point: Tensor, lo: int, hi: int, axis: int = 0, groups: int = 1
) -> Tensor:
    """Round to a grid and back; scale and zero_point hold one value, or one by index of `axis`.

    With `groups`, axis 0 holds that many groups, and there is one value by group and index.
    """
    step, zero = (_along(x, v, axis, groups) for v in (scale, zero_point.to(torch.float32)))
    inverse = (1.0 / step.to(torch.float64)).to(torch.float32)
    real = x * inverse
    real = torch.where(real > lo - zero, real, lo - zero)
    return torch.where(real < hi - zero, real, hi - zero).round() * step


FAKE_QUANTIZE = define(
    "fake_quantize(Tensor x, Tensor scale, Tensor zero_point, int lo, int hi, int axis=0,"
    " int groups=1) -> Tensor",
    _fake_quant,
    like_first,
)


def _pass_on(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
    return gradient, None


def _refuse(context: Any, gradient: Tensor) -> NoReturn:
    raise PassError(
        "gradients cannot pass qpc::fake_quantize: rounding has none that a model could learn from",
        fix="train or prune the float graph that qpc.trace returned, then quantize it",
    )


# An observer passes gradients on. Rounding has the gradient 0 wherever it has one, so that a model
# would learn nothing and say nothing: a backward pass through it is an error.
torch.library.register_autograd("qpc::observe", _pass_on, lib=LIBRARY)
torch.library.register_autograd("qpc::fake_quantize", _refuse, lib=LIBRARY)

SPECS = (
    OpSpec(QUANTIZE, "quantize", ends_with_clamp=True),
    OpSpec(DEQUANTIZE, "dequantize"),
    OpSpec(OBSERVE, "observe"),
    OpSpec(FAKE_QUANTIZE, "fake_quantize"),
)

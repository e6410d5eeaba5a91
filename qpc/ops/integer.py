"""The integer operators: their PyTorch bodies *are* the definition of the right answer.

Every backend must return the same bits as these functions, which are written to be obvious, not
fast. Integer sums are formed in float64 where PyTorch has no integer kernel: all partial sums are
integers far below 2**53, so they are exact in any order.

Shared rules (`docs/quantization.md` has the reasons):

- `rne` rounds to nearest, ties to even; NaN quantizes to `lo`.
- `requantize(acc, m, z, lo, hi) = clamp(rne(float32(acc) * m) + z, lo, hi)`: one float32
  multiplication, integers after it. A float product never feeds a float sum, so that no compiler
  can contract the two.
- Activations are uint8 or int8 of the logical shape that the float operator had (images are NCHW).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from qpc.errors import OverflowProofError, PassError
from qpc.ops import gradients

_NAMESPACE = "qpc"
POSITIONS = 2048
"""Places between two pixels that `qpc::resize2d` knows; a power of two."""
MOST_SUMMED = (2**31 - 1) // 255
"""Differences of 8-bit integers whose sum always fits 32 bits, in whatever order they are added."""


def _float32(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float32)


def _clamp_round(real: Tensor, zero_point: int, lo: int, hi: int) -> Tensor:
    """`clamp(rne(real) + zero_point, lo, hi)` as int32; clamped first so that nothing overflows."""
    inside = torch.where(real > lo - zero_point, real, _float32(lo - zero_point))
    inside = torch.where(inside < hi - zero_point, inside, _float32(hi - zero_point))
    return inside.round().to(torch.int32) + zero_point


def requantize(
    acc: Tensor, multiplier: Tensor | float, zero_point: int, lo: int, hi: int, dtype: torch.dtype
) -> Tensor:
    """Bring int32 accumulators to a grid: `clamp(rne(float32(acc) * m) + z, lo, hi)`."""
    factor = _float32(multiplier) if isinstance(multiplier, float) else multiplier
    return _clamp_round(acc.to(torch.float32) * factor, zero_point, lo, hi).to(dtype)


def wrap_int32(exact: Tensor) -> Tensor:
    """An exact integer (float64 or int64 tensor) as int32, modulo 2**32 as hardware does."""
    wide = exact.to(torch.int64)
    return ((wide + 2**31) % 2**32 - 2**31).to(torch.int32)


def reciprocal(scale: float) -> float:
    """`float32(1 / scale)`, the factor that `qpc::quantize` multiplies with."""
    return float(np.float32(1.0 / scale))


def average_multiplier(input_scale: float, output_scale: float, count: int) -> float:
    """`float32(input_scale / (output_scale * count))`, which requantizes a sum to its average.

    Computed in float64. Raises OverflowProofError if it is too large for float32.
    """
    exact = input_scale / (output_scale * count)
    if exact > float(np.finfo(np.float32).max):
        raise OverflowProofError(f"the requantization multiplier {exact:.6g} does not fit float32")
    return float(np.float32(exact))


def require_sum(count: int) -> None:
    """Raise OverflowProofError if a sum of so many differences might not fit 32 bits."""
    if count > MOST_SUMMED:
        raise OverflowProofError(
            f"a sum of {count} integers may not fit 32 bits, which {MOST_SUMMED} always do",
            fix="keep it in float, or average in two steps",
        )


def reduced_axes(dims: Sequence[int], rank: int) -> set[int]:
    """The axes that `dims` names, counted from 0: all if it names none."""
    return {d % rank for d in dims} or set(range(rank))


# --- definitions ----------------------------------------------------------------------------------


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
    _require_sizes(x, sizes)
    return _clamp_round(x * _float32(reciprocal(scale)), zero_point, lo, hi).to(dtype)


def _dequantize(q: Tensor, scale: float, zero_point: int) -> Tensor:
    return (q.to(torch.int32) - zero_point).to(torch.float32) * _float32(scale)


def _conv2d(
    q: Tensor,
    weight: Tensor,
    bias: Tensor,
    multiplier: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    input_zero_point: int,
    output_zero_point: int,
    lo: int,
    hi: int,
) -> Tensor:
    centred = q.to(torch.float64) - input_zero_point  # so that padding contributes zero
    total = F.conv2d(
        centred,
        weight.to(torch.float64),
        None,
        tuple(stride),
        tuple(padding),
        tuple(dilation),
        groups,
    )
    acc = wrap_int32(total + bias.to(torch.float64)[:, None, None])
    return requantize(acc, multiplier[:, None, None], output_zero_point, lo, hi, q.dtype)


def _conv_transpose2d(
    q: Tensor,
    weight: Tensor,
    bias: Tensor,
    multiplier: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    output_padding: Sequence[int],
    groups: int,
    dilation: Sequence[int],
    input_zero_point: int,
    output_zero_point: int,
    lo: int,
    hi: int,
) -> Tensor:
    centred = q.to(torch.float64) - input_zero_point
    total = F.conv_transpose2d(
        centred,
        weight.to(torch.float64),
        None,
        tuple(stride),
        tuple(padding),
        tuple(output_padding),
        groups,
        tuple(dilation),
    )
    acc = wrap_int32(total + bias.to(torch.float64)[:, None, None])
    return requantize(acc, multiplier[:, None, None], output_zero_point, lo, hi, q.dtype)


def _linear(
    q: Tensor,
    weight: Tensor,
    bias: Tensor,
    multiplier: Tensor,
    input_zero_point: int,
    output_zero_point: int,
    lo: int,
    hi: int,
) -> Tensor:
    centred = q.to(torch.float64) - input_zero_point
    acc = wrap_int32(F.linear(centred, weight.to(torch.float64)) + bias.to(torch.float64))
    return requantize(acc, multiplier, output_zero_point, lo, hi, q.dtype)


def _add(
    a: Tensor,
    b: Tensor,
    a_zero_point: int,
    b_zero_point: int,
    a_multiplier: int,
    b_multiplier: int,
    shift: int,
    output_zero_point: int,
    lo: int,
    hi: int,
) -> Tensor:
    total = (a.to(torch.int32) - a_zero_point) * a_multiplier
    total = total + (b.to(torch.int32) - b_zero_point) * b_multiplier
    half = 1 << (shift - 1) if shift else 0
    return (((total + half) >> shift) + output_zero_point).clamp(lo, hi).to(a.dtype)


def _mul(
    a: Tensor,
    b: Tensor,
    a_zero_point: int,
    b_zero_point: int,
    multiplier: float,
    output_zero_point: int,
    lo: int,
    hi: int,
) -> Tensor:
    product = (a.to(torch.int32) - a_zero_point) * (b.to(torch.int32) - b_zero_point)
    return requantize(product, multiplier, output_zero_point, lo, hi, a.dtype)


def _max_pool2d(
    q: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
) -> Tensor:
    window = tuple(kernel_size), tuple(stride), tuple(padding), tuple(dilation)
    return F.max_pool2d(q.to(torch.float32), *window, ceil_mode=ceil_mode).to(q.dtype)


def _avg_pool2d(
    q: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    input_zero_point: int,
    multiplier: float,
    output_zero_point: int,
    lo: int,
    hi: int,
) -> Tensor:
    require_sum(prod(kernel_size))
    centred = q.to(torch.float64) - input_zero_point
    window = tuple(kernel_size), tuple(stride), tuple(padding)
    total = F.avg_pool2d(centred, *window, divisor_override=1)
    return requantize(wrap_int32(total), multiplier, output_zero_point, lo, hi, q.dtype)


def _sum(
    q: Tensor,
    dims: Sequence[int],
    keepdim: bool,
    input_zero_point: int,
    multiplier: float,
    output_zero_point: int,
    lo: int,
    hi: int,
) -> Tensor:
    require_sum(_count(q, dims))
    total = (q.to(torch.int64) - input_zero_point).sum(tuple(dims), keepdim)
    return requantize(wrap_int32(total), multiplier, output_zero_point, lo, hi, q.dtype)


def _mean(
    q: Tensor,
    dims: Sequence[int],
    keepdim: bool,
    input_zero_point: int,
    input_scale: float,
    output_scale: float,
    output_zero_point: int,
    lo: int,
    hi: int,
) -> Tensor:
    """`sum`, by the number of values that are there: the same graph serves images of any size."""
    multiplier = average_multiplier(input_scale, output_scale, _count(q, dims))
    return _sum(q, dims, keepdim, input_zero_point, multiplier, output_zero_point, lo, hi)


def _count(q: Tensor, dims: Sequence[int]) -> int:
    return prod(q.shape[axis] for axis in reduced_axes(dims, q.dim()))


def _resize2d(q: Tensor, rows: Tensor, columns: Tensor, input_size: Sequence[int]) -> Tensor:
    """Sample at the given places, in units of `1 / POSITIONS` pixels: linear, rounded once.

    The places are right for images of `input_size` only.
    """
    _require_size(q, input_size)

    def sampled(x: Tensor, places: Tensor, axis: int) -> Tensor:
        shape = (-1, 1) if axis == -2 else (-1,)
        weight = (places % POSITIONS).reshape(shape)
        first = (places // POSITIONS).to(torch.int64)
        second = (first + 1).clamp(max=x.shape[axis] - 1)  # of weight 0 beyond the last
        low, high = x.index_select(axis, first), x.index_select(axis, second)
        return low * (POSITIONS - weight) + high * weight

    total = sampled(sampled(q.to(torch.int64), rows, -2), columns, -1)
    shift = 2 * (POSITIONS.bit_length() - 1)
    return ((total + (1 << (shift - 1))) >> shift).to(q.dtype)


def _require_sizes(x: Tensor, sizes: Sequence[int] | None) -> None:
    """-1 stands for any size."""
    found = tuple(x.shape[1:])
    if sizes is None or (
        len(found) == len(sizes) and all(s in (-1, d) for s, d in zip(sizes, found, strict=True))
    ):
        return
    wanted = ", ".join("any" if size == -1 else str(size) for size in sizes)
    raise PassError(
        f"the graph was made for inputs of the sizes (N, {wanted}), not of {tuple(x.shape)}",
        fix="trace and quantize the model at the size at which it is used",
    )


def _require_size(q: Tensor, size: Sequence[int]) -> None:
    if tuple(q.shape[-2:]) != tuple(size):
        raise PassError(
            f"resizing was converted for images of {size[0]} x {size[1]} pixels,"
            f" not of {q.shape[-2]} x {q.shape[-1]}",
            fix="trace and quantize the model at the size at which it is used",
        )


def _lookup(q: Tensor, table: Tensor) -> Tensor:
    return table[q.to(torch.int64) - torch.iinfo(q.dtype).min]


def _clamp(q: Tensor, lo: int, hi: int) -> Tensor:
    return q.clamp(lo, hi)


# --- operators of the way there: observers and fake quantization in a float graph -----------------


def _observe(x: Tensor, observer: str) -> Tensor:
    return x.clone()


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


# --- shapes on meta and fake tensors --------------------------------------------------------------


def _like_first(q: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(q)


def _fake_lookup(q: Tensor, table: Tensor) -> Tensor:
    return torch.empty_like(q, dtype=table.dtype)


def _fake_quantize(
    x: Tensor,
    scale: float,
    zero_point: int,
    lo: int,
    hi: int,
    dtype: torch.dtype,
    sizes: Sequence[int] | None = None,
) -> Tensor:
    _require_sizes(x, sizes)
    return torch.empty_like(x, dtype=dtype)


def _fake_dequantize(q: Tensor, scale: float, zero_point: int) -> Tensor:
    return torch.empty_like(q, dtype=torch.float32)


def _fake_conv2d(
    q: Tensor,
    weight: Tensor,
    bias: Tensor,
    multiplier: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    *_: Any,
) -> Tensor:
    sizes = [
        (q.shape[2 + i] + 2 * padding[i] - dilation[i] * (weight.shape[2 + i] - 1) - 1) // stride[i]
        + 1
        for i in (0, 1)
    ]
    return q.new_empty((q.shape[0], weight.shape[0], *sizes))


def _fake_conv_transpose2d(
    q: Tensor,
    weight: Tensor,
    bias: Tensor,
    multiplier: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    output_padding: Sequence[int],
    groups: int,
    dilation: Sequence[int],
    *_: Any,
) -> Tensor:
    sizes = [
        (q.shape[2 + i] - 1) * stride[i]
        - 2 * padding[i]
        + dilation[i] * (weight.shape[2 + i] - 1)
        + output_padding[i]
        + 1
        for i in (0, 1)
    ]
    return q.new_empty((q.shape[0], weight.shape[1] * groups, *sizes))


def _fake_linear(q: Tensor, weight: Tensor, *_: Any) -> Tensor:
    return q.new_empty((*q.shape[:-1], weight.shape[0]))


def _fake_binary(a: Tensor, b: Tensor, *_: Any) -> Tensor:
    return a.new_empty(torch.broadcast_shapes(a.shape, b.shape))


def _fake_max_pool2d(
    q: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    ceil_mode: bool,
) -> Tensor:
    window = tuple(kernel_size), tuple(stride), tuple(padding), tuple(dilation)
    pooled = F.max_pool2d(q.new_empty(q.shape, dtype=torch.float32), *window, ceil_mode=ceil_mode)
    return q.new_empty(pooled.shape)


def _fake_avg_pool2d(
    q: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    *_: Any,
) -> Tensor:
    sizes = [(q.shape[2 + i] + 2 * padding[i] - kernel_size[i]) // stride[i] + 1 for i in (0, 1)]
    return q.new_empty((*q.shape[:-2], *sizes))


def _fake_mean(q: Tensor, dims: Sequence[int], keepdim: bool, *_: Any) -> Tensor:
    reduced = reduced_axes(dims, q.dim())
    sizes = [1 if i in reduced else s for i, s in enumerate(q.shape)]
    return q.new_empty([s for i, s in enumerate(sizes) if keepdim or i not in reduced])


def _fake_resize2d(q: Tensor, rows: Tensor, columns: Tensor, input_size: Sequence[int]) -> Tensor:
    _require_size(q, input_size)
    return q.new_empty((*q.shape[:-2], rows.shape[0], columns.shape[0]))


_GRID = "int output_zero_point, int lo, int hi"
_DEFINITIONS: tuple[tuple[str, Callable[..., Tensor], Callable[..., Tensor]], ...] = (
    (
        "quantize(Tensor x, float scale, int zero_point, int lo, int hi, ScalarType dtype,"
        " int[]? sizes=None) -> Tensor",
        _quantize,
        _fake_quantize,
    ),
    (
        "dequantize(Tensor q, float scale, int zero_point) -> Tensor",
        _dequantize,
        _fake_dequantize,
    ),
    (
        "conv2d(Tensor q, Tensor weight, Tensor bias, Tensor multiplier, int[2] stride,"
        f" int[2] padding, int[2] dilation, int groups, int input_zero_point, {_GRID}) -> Tensor",
        _conv2d,
        _fake_conv2d,
    ),
    (
        "conv_transpose2d(Tensor q, Tensor weight, Tensor bias, Tensor multiplier, int[2] stride,"
        " int[2] padding, int[2] output_padding, int groups, int[2] dilation,"
        f" int input_zero_point, {_GRID}) -> Tensor",
        _conv_transpose2d,
        _fake_conv_transpose2d,
    ),
    (
        "linear(Tensor q, Tensor weight, Tensor bias, Tensor multiplier, int input_zero_point,"
        f" {_GRID}) -> Tensor",
        _linear,
        _fake_linear,
    ),
    (
        "add(Tensor a, Tensor b, int a_zero_point, int b_zero_point, int a_multiplier,"
        f" int b_multiplier, int shift, {_GRID}) -> Tensor",
        _add,
        _fake_binary,
    ),
    (
        "mul(Tensor a, Tensor b, int a_zero_point, int b_zero_point, float multiplier,"
        f" {_GRID}) -> Tensor",
        _mul,
        _fake_binary,
    ),
    (
        "max_pool2d(Tensor q, int[2] kernel_size, int[2] stride, int[2] padding, int[2] dilation,"
        " bool ceil_mode) -> Tensor",
        _max_pool2d,
        _fake_max_pool2d,
    ),
    (
        "avg_pool2d(Tensor q, int[2] kernel_size, int[2] stride, int[2] padding,"
        f" int input_zero_point, float multiplier, {_GRID}) -> Tensor",
        _avg_pool2d,
        _fake_avg_pool2d,
    ),
    (
        "sum(Tensor q, int[] dims, bool keepdim, int input_zero_point, float multiplier,"
        f" {_GRID}) -> Tensor",
        _sum,
        _fake_mean,
    ),
    (
        "mean(Tensor q, int[] dims, bool keepdim, int input_zero_point, float input_scale,"
        f" float output_scale, {_GRID}) -> Tensor",
        _mean,
        _fake_mean,
    ),
    (
        "resize2d(Tensor q, Tensor rows, Tensor columns, int[2] input_size) -> Tensor",
        _resize2d,
        _fake_resize2d,
    ),
    ("observe(Tensor x, str observer) -> Tensor", _observe, _like_first),
    (
        "fake_quantize(Tensor x, Tensor scale, Tensor zero_point, int lo, int hi, int axis=0,"
        " int groups=1) -> Tensor",
        _fake_quant,
        _like_first,
    ),
    ("lookup(Tensor q, Tensor table) -> Tensor", _lookup, _fake_lookup),
    ("clamp(Tensor q, int lo, int hi) -> Tensor", _clamp, _like_first),
)


def _define() -> torch.library.Library:
    library = torch.library.Library(_NAMESPACE, "FRAGMENT")
    for schema, body, fake in _DEFINITIONS:
        name = schema.partition("(")[0]
        library.define(schema)
        library.impl(name, body, "CPU")
        torch.library.register_fake(f"{_NAMESPACE}::{name}", fake, lib=library)
    gradients.register(library)
    return library


LIBRARY = _define()
"""Keeps the operators registered for as long as this module is loaded."""

"""Float operators by simpler ones, where neither TVM nor PyTorch knows any."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from math import log, prod

import numpy as np
import torch
from torch import Tensor
from torch._meta_registrations import pooling_output_shape

from qpc.backends.tvm.lowering.floats.rule import FloatRule, on_axes
from qpc.calls import aten


def _axes(dim: int | Sequence[int] | None, x: Tensor) -> list[int]:
    given = [dim] if isinstance(dim, int) else list(dim or range(x.ndim))
    return [axis % x.ndim for axis in given] if x.ndim else []


def _any(x: Tensor, dim: int | Sequence[int] | None = None, keepdim: bool = False) -> Tensor:
    truths = x if x.dtype == torch.bool else x != 0
    return truths.to(torch.float32).amax(_axes(dim, x), keepdim) != 0


def _extreme(x: Tensor, *, least: bool) -> Tensor:
    return x.amin(_axes(None, x)) if least else x.amax(_axes(None, x))


def _mean(x: Tensor, *, dtype: torch.dtype | None = None) -> Tensor:
    return x.mean(_axes(None, x), dtype=dtype)


def _least_with_place(x: Tensor, dim: int, keepdim: bool = False) -> tuple[Tensor, Tensor]:
    places = x.argmin(dim, keepdim=True)
    values = x.gather(dim, places)
    return (values, places) if keepdim else (values.squeeze(dim), places.squeeze(dim))


def _both_extremes(
    x: Tensor, dim: int | None = None, keepdim: bool = False
) -> tuple[Tensor, Tensor]:
    return x.amin(_axes(dim, x), keepdim), x.amax(_axes(dim, x), keepdim)


def _one_hot(x: Tensor, num_classes: int = -1) -> Tensor:
    if num_classes < 0:
        raise NotImplementedError("as many classes as there are values")
    return (x.unsqueeze(-1) == torch.arange(num_classes)).to(torch.int64)


def _sort(x: Tensor, dim: int = -1, descending: bool = False) -> tuple[Tensor, Tensor]:
    values, places = x.topk(x.shape[dim], dim, largest=descending)
    return values, places


def _stable_sort(
    x: Tensor, *, stable: bool | None = None, dim: int = -1, descending: bool = False
) -> tuple[Tensor, Tensor]:
    return _sort(x, dim, descending)  # which leaves equal values in their order


def _diagonal(x: Tensor, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Tensor:
    first, second = dim1 % x.ndim, dim2 % x.ndim
    rows, columns = x.shape[first], x.shape[second]
    count = min(rows + min(offset, 0), columns - max(offset, 0))
    steps = torch.arange(max(count, 0))
    places = (steps + max(-offset, 0)) * columns + steps + max(offset, 0)
    order = [*(d for d in range(x.ndim) if d not in (first, second)), first, second]
    return x.permute(order).flatten(-2).index_select(-1, places)


def _distances(a: Tensor, b: Tensor, p: float, mode: int | None = None) -> Tensor:
    apart = (a.unsqueeze(-2) - b.unsqueeze(-3)).abs()
    if p == 0:
        return apart.ceil().clamp(max=1).sum(-1)  # NaN stays NaN
    if p == 1:
        return apart.sum(-1)
    if p == float("inf"):
        return apart.amax(-1)
    if p == 2:
        return (apart * apart).sum(-1).sqrt()
    return (apart**p).sum(-1) ** (1 / p)


def _trilinear(
    a: Tensor,
    b: Tensor,
    c: Tensor,
    expand1: Sequence[int],
    expand2: Sequence[int],
    expand3: Sequence[int],
    sumdim: Sequence[int],
    unroll_dim: int = 1,
) -> Tensor:
    for axis in expand1:
        a = a.unsqueeze(axis)
    for axis in expand2:
        b = b.unsqueeze(axis)
    for axis in expand3:
        c = c.unsqueeze(axis)
    return (a * b * c).sum(list(sumdim)) if sumdim else a * b * c


def _buckets(x: Tensor, borders: Tensor, *, out_int32: bool = False, right: bool = False) -> Tensor:
    """How many borders a value is beyond; borders have one axis, or the axes of values."""
    value, others = x.unsqueeze(-1), borders if borders.ndim == 1 else borders.unsqueeze(-2)
    beyond = value >= others if right else value > others
    found = beyond.to(torch.float32).sum(-1)
    kind = torch.int32 if out_int32 else torch.int64
    return torch.where(x.isnan(), borders.shape[-1], found).to(kind)


def _searched(
    borders: Tensor,
    x: Tensor,
    *,
    out_int32: bool = False,
    right: bool = False,
    side: str | None = None,
    sorter: Tensor | None = None,
) -> Tensor:
    if sorter is not None:
        raise NotImplementedError("borders that are not in order")
    return _buckets(x, borders, out_int32=out_int32, right=right or side == "right")


def _within(x: Tensor, index: Tensor, dim: int) -> list[Tensor]:
    """The places along all axes of what `index` means along one."""
    found = []
    for axis, size in enumerate(index.shape):
        shape = [size if d == axis else 1 for d in range(index.ndim)]
        along = index if axis == dim % x.ndim else torch.arange(size).reshape(shape)
        found.append(along.expand(index.shape))
    return found


def _scatter(x: Tensor, dim: int, index: Tensor, src: Tensor, *, accumulate: bool) -> Tensor:
    for axis, size in enumerate(index.shape):
        src = src.narrow(axis, 0, size)
    made = aten.index_put.default(x, _within(x, index, dim), src, accumulate)
    assert isinstance(made, Tensor)
    return made


def _scatter_value(x: Tensor, dim: int, index: Tensor, value: float) -> Tensor:
    return _scatter(x, dim, index, torch.full(index.shape, value, dtype=x.dtype), accumulate=False)


def _pool_with_places(
    x: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int] = (),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    ceil_mode: bool = False,
) -> tuple[Tensor, Tensor]:
    """Where in an image the largest value of a window is, the first such."""
    size = list(x.shape[-2:])
    kernel, step, pad, apart = (
        on_axes(given, 2) for given in (kernel_size, stride or kernel_size, padding, dilation)
    )
    places = []
    for length, s, k, d, p in zip(size, step, kernel, apart, pad, strict=True):
        count = pooling_output_shape(length, k, p, s, d, ceil_mode)
        places.append(np.arange(count)[:, None] * s + np.arange(k) * d - p)
    rows, columns = places[0][:, None, :, None], places[1][None, :, None, :]
    inside = (rows >= 0) & (rows < size[0]) & (columns >= 0) & (columns < size[1])
    flat = rows.clip(0, size[0] - 1) * size[1] + columns.clip(0, size[1] - 1)
    places_of, is_inside = (
        torch.from_numpy(array.reshape(*array.shape[:2], -1)) for array in (flat, inside)
    )
    windows = x.flatten(-2).index_select(-1, places_of.reshape(-1))
    windows = windows.reshape(*x.shape[:-2], *places_of.shape)
    windows = torch.where(is_inside, windows, float("-inf"))
    chosen = windows.argmax(-1, keepdim=True)
    found = places_of.expand(windows.shape).gather(-1, chosen).squeeze(-1)
    return windows.amax(-1), found


def _unpooled(x: Tensor, indices: Tensor, output_size: Sequence[int]) -> Tensor:
    planes = [*x.shape[:-2], prod(output_size)]
    nothing = torch.zeros(planes, dtype=x.dtype)
    made = _scatter(nothing, -1, indices.flatten(-2), x.flatten(-2), accumulate=False)
    return made.reshape(*x.shape[:-2], *output_size)


def _sum_of_products(
    x: Tensor, a: Tensor, b: Tensor, *, beta: float = 1, alpha: float = 1
) -> Tensor:
    made = torch.bmm(a, b).sum(0) * alpha
    return made + x * beta if beta else made  # without x, its NaN does not count


_SUM, _MEAN, _MAX = range(3)


def _bags(
    weight: Tensor,
    indices: Tensor,
    offsets: Tensor,
    scale_grad_by_freq: bool = False,
    mode: int = _SUM,
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int = -1,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Sums, means or maxima of the rows of each bag; of the four results only these are right."""
    ends = torch.cat([offsets[1:], torch.full((1,), len(indices), dtype=offsets.dtype)])
    starts, ends = (t[: len(t) - include_last_offset].unsqueeze(1) for t in (offsets, ends))
    places = torch.arange(len(indices))
    inside = (places >= starts) & (places < ends) & (indices != padding_idx)
    rows = aten.embedding.default(weight, indices)
    if per_sample_weights is not None:
        rows = rows * per_sample_weights.unsqueeze(1)
    count = inside.to(weight.dtype).sum(1, keepdim=True)
    if mode == _MAX:
        rows = torch.where(inside.unsqueeze(-1), rows, float("-inf")).amax(1)
        made = torch.where(count > 0, rows, 0.0)
    else:
        made = inside.to(weight.dtype) @ rows
        made = made / count.clamp(min=1) if mode == _MEAN else made
    return made, indices, offsets, offsets


def _bits(operator: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, int], Tensor]:
    return lambda x, other: operator(x, torch.full_like(x, other))


_DECOMPOSED: dict[object, Callable[..., object]] = {
    aten.any.default: _any,
    aten.any.dim: _any,
    aten.any.dims: _any,
    aten.one_hot.default: _one_hot,
    aten.max.default: partial(_extreme, least=False),
    aten.min.default: partial(_extreme, least=True),
    aten.mean.default: _mean,
    aten.min.dim: _least_with_place,
    aten.aminmax.default: _both_extremes,
    aten.sort.default: _sort,
    aten.sort.stable: _stable_sort,
    aten.diagonal.default: _diagonal,
    aten._cdist_forward.default: _distances,
    aten._trilinear.default: _trilinear,
    aten._embedding_bag.default: _bags,
    aten._embedding_bag_forward_only.default: _bags,
    aten.bucketize.Tensor: _buckets,
    aten.searchsorted.Tensor: _searched,
    aten.scatter.src: partial(_scatter, accumulate=False),
    aten.scatter.value: _scatter_value,
    aten.scatter_add.default: partial(_scatter, accumulate=True),
    aten.max_pool2d_with_indices.default: _pool_with_places,
    aten.max_unpool2d.default: _unpooled,
    aten.bitwise_and.Scalar: _bits(torch.bitwise_and),
    aten.bitwise_or.Scalar: _bits(torch.bitwise_or),
    aten.bitwise_xor.Scalar: _bits(torch.bitwise_xor),
    aten.addbmm.default: _sum_of_products,
    aten.erfc.default: lambda x: 1 - torch.erf(x),
    aten.exp2.default: lambda x: torch.exp(x * log(2)),
    aten.log2.default: lambda x: torch.log(x) * (1 / log(2)),
    aten.log10.default: lambda x: torch.log(x) * (1 / log(10)),
    aten.cosh.default: lambda x: torch.exp(x - log(2)) + torch.exp(-x - log(2)),
    aten.fmax.default: lambda a, b: torch.where(b.isnan(), a, torch.where(a > b, a, b)),
    aten.fmin.default: lambda a, b: torch.where(b.isnan(), a, torch.where(a < b, a, b)),
    aten.signbit.default: lambda x: torch.atan2(x, torch.full_like(x, -1.0)) < 0,
    aten.copysign.Tensor: lambda a, b: torch.where(torch.signbit(b), -a.abs(), a.abs()),
}

RULES: dict[object, FloatRule] = {
    operator: FloatRule(decomposition=made) for operator, made in _DECOMPOSED.items()
}

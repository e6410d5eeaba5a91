"""Maxima and averages over windows, in float and in integers."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.nn import functional as F

from qpc.calls import Arg, One, OpView, Pair, Triple, arguments, aten
from qpc.channels.atoms import Labels, spread
from qpc.library import GRID, REALS, define, in_float
from qpc.ops.counted_pooling import COUNTED_AVG_POOL2D
from qpc.ops.movement import refuse_parameters
from qpc.ops.reduction import refuse_long_sum
from qpc.quant.arithmetic import (
    real_values,
    requantize,
    require_bounds,
    require_sum,
    wrap_int32,
)
from qpc.registry import OpSpec, Quantization, Role, fits_by_itself, overloads

if TYPE_CHECKING:
    from qpc.analysis.integer_proofs import IntegerProof
    from qpc.channels.flow import Flow
    from qpc.conversion import Conversion


class _Windows1d(OpView):
    """Windows along one axis."""

    input = Arg[Node]("self")
    kernel_size = One()
    padding = One()
    ceil_mode = Arg[bool]()

    @property
    def stride(self) -> int:
        """The stride; an empty argument means the kernel size."""
        given = arguments(self.node)["stride"]
        return One().decode(given) if given else self.kernel_size


class _Windows2d(OpView):
    """Windows along height and width."""

    input = Arg[Node]("self")
    kernel_size = Pair()
    padding = Pair()
    ceil_mode = Arg[bool]()

    @property
    def stride(self) -> tuple[int, int]:
        """The stride; an empty argument means the kernel size."""
        given = arguments(self.node)["stride"]
        return Pair().decode(given) if given else self.kernel_size


class _Windows3d(OpView):
    """Windows along depth, height and width."""

    input = Arg[Node]("self")
    kernel_size = Triple()
    padding = Triple()
    ceil_mode = Arg[bool]()

    @property
    def stride(self) -> tuple[int, int, int]:
        """The stride; an empty argument means the kernel size."""
        given = arguments(self.node)["stride"]
        return Triple().decode(given) if given else self.kernel_size


class MaxPool1d(_Windows1d, of=aten.max_pool1d.default):
    """Padding never wins."""

    dilation = One()


class MaxPool2d(_Windows2d, of=aten.max_pool2d.default):
    """Padding never wins."""

    dilation = Pair()


class MaxPool3d(_Windows3d, of=aten.max_pool3d.default):
    """Padding never wins."""

    dilation = Triple()


class AvgPool1d(_Windows1d, of=aten.avg_pool1d.default):
    """Average over windows of one axis."""

    count_include_pad = Arg[bool]()


class AvgPool2d(_Windows2d, of=aten.avg_pool2d.default):
    """Average over windows."""

    count_include_pad = Arg[bool]()
    divisor_override = Arg[int | None]()


class AvgPool3d(_Windows3d, of=aten.avg_pool3d.default):
    """Average over windows."""

    count_include_pad = Arg[bool]()
    divisor_override = Arg[int | None]()


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


MAX_POOL2D = define(
    "max_pool2d(Tensor q, int[2] kernel_size, int[2] stride, int[2] padding, int[2] dilation,"
    " bool ceil_mode) -> Tensor",
    _max_pool2d,
    _fake_max_pool2d,
)


def _window_sums(
    q: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    input_zero_point: int,
) -> Tensor:
    require_sum(prod(kernel_size))
    centred = q.to(torch.float64) - input_zero_point
    window = tuple(kernel_size), tuple(stride), tuple(padding)
    return wrap_int32(F.avg_pool2d(centred, *window, divisor_override=1))


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
    total = _window_sums(q, kernel_size, stride, padding, input_zero_point)
    return requantize(total, multiplier, output_zero_point, lo, hi, q.dtype)


def _avg_pool2d_float(
    q: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    input_zero_point: int,
    multiplier: float,
    least: float | None,
    greatest: float | None,
) -> Tensor:
    total = _window_sums(q, kernel_size, stride, padding, input_zero_point)
    return real_values(total, multiplier, least, greatest)


def _fake_avg_pool2d(
    q: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    *_: Any,
) -> Tensor:
    sizes = [(q.shape[2 + i] + 2 * padding[i] - kernel_size[i]) // stride[i] + 1 for i in (0, 1)]
    return q.new_empty((*q.shape[:-2], *sizes))


_AVERAGED = (
    "Tensor q, int[2] kernel_size, int[2] stride, int[2] padding, int input_zero_point,"
    " float multiplier"
)
AVG_POOL2D = define(f"avg_pool2d({_AVERAGED}, {GRID}) -> Tensor", _avg_pool2d, _fake_avg_pool2d)
AVG_POOL2D_FLOAT = define(
    f"avg_pool2d_float({_AVERAGED}, {REALS}) -> Tensor",
    _avg_pool2d_float,
    in_float(_fake_avg_pool2d),
)


# --- quantization ---------------------------------------------------------------------------------


def _refuse_average(node: Node) -> str | None:
    pool = AvgPool2d(node)
    if pool.ceil_mode and pool.divisor_override:
        return "average pooling with ceil_mode has a divisor of its own"
    return refuse_long_sum(prod(pool.kernel_size))


def _convert_max(conversion: Conversion) -> Node:
    pool = MaxPool2d(conversion.node)
    window = [pool.kernel_size, pool.stride, pool.padding, pool.dilation]
    value = conversion.integers[pool.input]
    return conversion.call(MAX_POOL2D, value, *map(list, window), pool.ceil_mode)


def _convert_counted(conversion: Conversion) -> Node:
    pool = AvgPool2d(conversion.node)
    source, value = conversion.grid_of(pool.input), conversion.integers[pool.input]
    window = [list(pool.kernel_size), list(pool.stride), list(pool.padding)]
    counting = (pool.ceil_mode, pool.count_include_pad)
    numbers = (source.zero_point, source.scale, conversion.grid.scale, *conversion.ends)
    return conversion.call(COUNTED_AVG_POOL2D, value, *window, *counting, *numbers)


def _convert_average(conversion: Conversion) -> Node:
    pool = AvgPool2d(conversion.node)
    source, value = conversion.grid_of(pool.input), conversion.integers[pool.input]
    factor = conversion.multiplier(source.scale, pool.divisor_override or prod(pool.kernel_size))
    window = [list(pool.kernel_size), list(pool.stride), list(pool.padding)]
    operands = value, *window, source.zero_point, factor
    return conversion.ended((AVG_POOL2D, AVG_POOL2D_FLOAT), *operands)


# --- channels -------------------------------------------------------------------------------------


def window(flow: Flow, node: Node) -> Labels:
    """Pooling and resizing work on the last axes and leave channels alone."""
    return spread(flow.line(node, node.all_input_nodes[0], 1), 1, flow.shape(node))


def _windows_with_places(flow: Flow, node: Node) -> Labels:
    """Maxima in windows, with their places: two values of the same channels."""
    value = node.all_input_nodes[0]
    line = flow.line(node, value, 1)
    return spread(line, 1, (1, len(line), *[1] * (len(flow.shape(value)) - 2)))


_MAX = Quantization(Role.MOVE, refuse_parameters, _convert_max)
_AVERAGE = Quantization(Role.REDUCE, _refuse_average, _convert_average, ends_in_float=True)
_COUNTED = Quantization(Role.REDUCE, _refuse_average, _convert_counted)


def _average(node: Node) -> Quantization:
    """Where windows reach beyond the image and that counts, each has a divisor of its own."""
    pool = AvgPool2d(node)
    uncounted = pool.padding != (0, 0) and not pool.count_include_pad
    return _COUNTED if pool.ceil_mode or (uncounted and not pool.divisor_override) else _AVERAGE


# --- proofs and sizes -----------------------------------------------------------------------------


def _check_average(proof: IntegerProof, node: Node) -> None:
    given = arguments(node)
    require_sum(prod(Pair().decode(given["kernel_size"])))
    require_bounds(given.get("least"), given.get("greatest"))


def _keeps_size(node: Node, before: tuple[int, ...], now: tuple[int, ...]) -> bool:
    """An adaptive pool was one of windows side by side."""
    given = arguments(node)
    kernel, stride, padding = (given[name] for name in ("kernel_size", "stride", "padding"))
    return kernel == (stride or kernel) and padding in (0, [0], [0, 0], [0, 0, 0], (0, 0))


_ADAPTIVE = "adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d"
_WITH_PLACES = (
    "adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d max_pool2d_with_indices "
    "max_pool3d_with_indices"
)
SPECS = (
    OpSpec(
        aten.max_pool2d.default,
        quantization=_MAX,
        view=MaxPool2d,
        exact=True,
        channels=window,
        keeps_size=_keeps_size,
    ),
    OpSpec(
        aten.avg_pool2d.default,
        quantization=_average,
        view=AvgPool2d,
        channels=window,
        keeps_size=_keeps_size,
    ),
    OpSpec(
        aten.max_pool1d.default,
        view=MaxPool1d,
        exact=True,
        channels=window,
        keeps_size=_keeps_size,
    ),
    OpSpec(aten.avg_pool1d.default, view=AvgPool1d, channels=window, keeps_size=_keeps_size),
    OpSpec(
        aten.max_pool3d.default,
        view=MaxPool3d,
        exact=True,
        channels=window,
        keeps_size=_keeps_size,
    ),
    OpSpec(aten.avg_pool3d.default, view=AvgPool3d, channels=window, keeps_size=_keeps_size),
    *(OpSpec(t, channels=window) for t in overloads(_ADAPTIVE)),
    *(OpSpec(t, channels=_windows_with_places) for t in overloads(_WITH_PLACES)),
    OpSpec(MAX_POOL2D, exact=True, picks=True, check=fits_by_itself, keeps_size=_keeps_size),
    OpSpec(
        AVG_POOL2D,
        exact=True,
        ends_with_clamp=True,
        check=_check_average,
        keeps_size=_keeps_size,
    ),
    OpSpec(AVG_POOL2D_FLOAT, exact=True, check=_check_average, keeps_size=_keeps_size),
)

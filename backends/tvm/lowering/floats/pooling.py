"""Pooling of floats."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

from tvm import relax, te, tirx

from qpc.backends.tvm.lowering.floats.extremes import extreme_of, worst
from qpc.backends.tvm.lowering.floats.linear import scaled
from qpc.backends.tvm.lowering.floats.rule import (
    IMPORTED,
    Arguments,
    FloatRule,
    Rule,
    dtype_of,
    is_float,
    per_axis,
    shape_of,
)
from qpc.calls import aten


def _avg_pool2d(args: Arguments) -> relax.Expr | None:
    # TVM's importer does not look at divisor_override.
    x, divisor = args["self"], args["divisor_override"]
    if x.ty.ndim != 4 or (divisor is not None and args["ceil_mode"]):
        return None
    window = per_axis(args["kernel_size"], x)
    made = relax.op.nn.avg_pool2d(
        x,
        window,
        strides=per_axis(args["stride"], x) if args["stride"] else window,
        padding=per_axis(args["padding"], x),
        ceil_mode=args["ceil_mode"],
        count_include_pad=args["count_include_pad"] or divisor is not None,
    )
    return made if divisor is None else scaled(made, prod(window) / divisor, dtype_of(x))


def _pool3d(call: Callable[..., relax.Expr]) -> Rule:
    def rule(args: Arguments) -> relax.Expr | None:
        x = args["self"]
        if args.get("divisor_override") is not None or x.ty.ndim != 5:
            return None
        window = per_axis(args["kernel_size"], x)
        named = {key: args[key] for key in ("count_include_pad",) if key in args}
        if "dilation" in args:
            named["dilation"] = per_axis(args["dilation"], x)
        return call(
            x,
            window,
            strides=per_axis(args["stride"], x) if args["stride"] else window,
            padding=per_axis(args["padding"], x),
            ceil_mode=args["ceil_mode"],
            **named,
        )

    return rule


def _max_pool(builder: relax.BlockBuilder, args: Arguments) -> relax.Expr | None:
    """Over any number of axes; padding never wins."""
    x = args["self"]
    if not is_float(x):
        return None
    shape = shape_of(x)
    names = ("kernel_size", "stride", "padding", "dilation")
    given = {name: per_axis(args[name], x) if args[name] else None for name in names}
    kernel = given["kernel_size"]
    if kernel is None or len(kernel) != len(shape) - 2:
        return None
    stride = given["stride"] or kernel
    padding, dilation = (
        given["padding"] or [0] * len(kernel),
        given["dilation"] or [1] * len(kernel),
    )
    windows = [
        _windows(*numbers, ceil_mode=bool(args["ceil_mode"]))
        for numbers in zip(shape[2:], kernel, stride, padding, dilation, strict=True)
    ]

    def compute(data: te.Tensor) -> te.Tensor:
        taps = [te.reduce_axis((0, size)) for size in kernel]
        dtype = dtype_of(x)
        reduce, nothing = extreme_of(dtype, least=False), worst(dtype, least=False)

        def of(*at: Any) -> Any:
            places = [
                i * s - p + tap * d
                for i, s, p, tap, d in zip(at[2:], stride, padding, taps, dilation, strict=True)
            ]
            inside: tirx.Expr | None = None
            for place, size, w, k, s, p, d in zip(
                places, shape[2:], windows, kernel, stride, padding, dilation, strict=True
            ):
                conditions = [place >= 0] if p else []
                conditions += [place < size] if (w - 1) * s - p + (k - 1) * d >= size else []
                for condition in conditions:
                    inside = condition if inside is None else tirx.all(inside, condition)
            value = data[(*at[:2], *places)]
            value = value if inside is None else tirx.if_then_else(inside, value, nothing)
            return reduce(value, axis=taps)

        return te.compute([*shape[:2], *windows], of)

    return builder.call_te(compute, x)


def _windows(
    size: int, kernel: int, stride: int, padding: int, dilation: int, *, ceil_mode: bool
) -> int:
    """Number of windows along an axis."""
    steps, rest = divmod(size + 2 * padding - (kernel - 1) * dilation - 1, stride)
    # A window of ceil mode must begin inside the input or the padding before it.
    extra = ceil_mode and rest > 0 and (steps + 1) * stride < size + padding
    return steps + 1 + extra


def _adaptive_max_pool(builder: relax.BlockBuilder, args: Arguments) -> relax.Expr | None:
    """Values, and their places in their planes: of equal ones the first, but the last NaN.

    Along an axis of size n, window i of k goes from floor(i * n / k) to ceil((i + 1) * n / k).
    """
    x = args["self"]
    if not is_float(x):
        return None
    sizes = [int(size) for size in x.ty.shape]
    planes, inner, made = sizes[:-2], sizes[-2:], [int(size) for size in args["output_size"]]
    windows = [_adaptive_windows(*pair) for pair in zip(inner, made, strict=True)]
    longest = [max(stop - start for start, stop in axis) for axis in windows]
    dtype = dtype_of(x)

    def compute(data: te.Tensor) -> list[te.Tensor]:
        taps = [te.reduce_axis((0, size)) for size in longest]
        greatest = te.comm_reducer(_greater, lambda *_: _nothing(dtype))

        def of(*at: Any) -> Any:
            bounds = [_bounds(*v) for v in zip(at[-2:], inner, made, strict=True)]
            # Shorter windows look at their last value again.
            row, column = (
                tirx.min(start + tap, stop - 1)
                for (start, stop), tap in zip(bounds, taps, strict=True)
            )
            place = tirx.Cast("int64", row * inner[1] + column)
            return greatest((place, data[(*at[:-2], row, column)]), axis=taps)

        return list(te.compute([*planes, *made], of))

    found = builder.emit(builder.call_te(compute, x))
    return relax.Tuple([relax.TupleGetItem(found, 1), relax.TupleGetItem(found, 0)])


def _adaptive_windows(size: int, count: int) -> list[tuple[int, int]]:
    return [(i * size // count, -(-(i + 1) * size // count)) for i in range(count)]


def _bounds(i: tirx.Expr, size: int, count: int) -> tuple[tirx.Expr, tirx.Expr]:
    """What `_adaptive_windows` has for window `i`."""
    return tirx.floordiv(i * size, count), tirx.floordiv((i + 1) * size + count - 1, count)


def _nothing(dtype: str) -> tuple[tirx.Expr, tirx.Expr]:
    return tirx.max_value("int64"), -tirx.infinity(dtype)


def _greater(a: Sequence[tirx.Expr], b: Sequence[tirx.Expr]) -> tuple[tirx.Expr, tirx.Expr]:
    (at, x), (other, y) = a, b
    none, no_other = tirx.isnan(x), tirx.isnan(y)
    later = tirx.And(none, tirx.Or(tirx.Not(no_other), at > other))
    earlier = tirx.And(x == y, at < other)
    first = tirx.Or(later, tirx.And(tirx.Not(no_other), tirx.Or(x > y, earlier)))
    return tirx.Select(first, at, other), tirx.Select(first, x, y)


RULES: dict[object, FloatRule] = {
    aten.avg_pool2d.default: FloatRule(_avg_pool2d),
    aten.avg_pool3d.default: FloatRule(_pool3d(relax.op.nn.avg_pool3d)),
    aten.max_pool1d.default: FloatRule(writes=_max_pool, importer=True),
    aten.max_pool2d.default: FloatRule(writes=_max_pool, importer=True),
    aten.max_pool3d.default: FloatRule(writes=_max_pool),
    aten.adaptive_max_pool2d.default: FloatRule(writes=_adaptive_max_pool),
    **dict.fromkeys(
        (
            aten._adaptive_avg_pool2d.default,
            aten.avg_pool1d.default,
        ),
        IMPORTED,
    ),
}

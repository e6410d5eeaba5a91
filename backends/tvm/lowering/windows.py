"""Windows on axes of a tensor: pools whose windows differ, and windows as a tensor's own axis."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from tvm import relax, te, tirx

from qpc.backends.tvm.lowering.relax_values import dtype_of, is_float
from qpc.calls import aten

BuilderRule = Callable[[relax.BlockBuilder, Mapping[str, Any]], "relax.Expr | None"]


def _adaptive_max_pool(builder: relax.BlockBuilder, args: Mapping[str, Any]) -> relax.Expr | None:
    """Values, and their places in their planes: of equal ones the first, but the last NaN.

    Along an axis of size n, window i of k goes from floor(i * n / k) to ceil((i + 1) * n / k).
    """
    x = args["self"]
    if not is_float(x):
        return None
    sizes = [int(size) for size in x.ty.shape]
    planes, inner, made = sizes[:-2], sizes[-2:], [int(size) for size in args["output_size"]]
    windows = [_windows(*pair) for pair in zip(inner, made, strict=True)]
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


def _windows(size: int, count: int) -> list[tuple[int, int]]:
    return [(i * size // count, -(-(i + 1) * size // count)) for i in range(count)]


def _bounds(i: tirx.Expr, size: int, count: int) -> tuple[tirx.Expr, tirx.Expr]:
    """What `_windows` has for window `i`."""
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


def _unfold(_: relax.BlockBuilder, args: Mapping[str, Any]) -> relax.Expr:
    """Windows along one axis; what is in them becomes the last axis."""
    x, size, step = args["self"], args["size"], args["step"]
    axis, rank = args["dimension"] % x.ty.ndim, x.ty.ndim
    shape = [int(s) for s in x.ty.shape]
    count = (shape[axis] - size) // step + 1
    places = (np.arange(count)[:, None] * step + np.arange(size)).reshape(-1)
    taken = relax.op.take(x, relax.const(places), axis=axis, mode="clip")
    apart = relax.op.reshape(taken, [*shape[:axis], count, size, *shape[axis + 1 :]])
    order = [d for d in range(rank + 1) if d != axis + 1]
    return relax.op.permute_dims(apart, [*order, axis + 1])


RULES: dict[Any, BuilderRule] = {
    aten.adaptive_max_pool2d.default: _adaptive_max_pool,
    aten.unfold.default: _unfold,
}

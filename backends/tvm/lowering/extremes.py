"""Maxima, minima and what is made of them, as PyTorch has them: NaN stays NaN.

TVM's own select whatever a comparison with NaN leaves over, and begin with the least finite number,
which is more than minus infinity.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from tvm import relax, te, tirx

from qpc.backends.tvm.lowering.relax_values import Rule, dtype_of, is_float, like, per_axis
from qpc.calls import aten

BuilderRule = Callable[[relax.BlockBuilder, Mapping[str, Any]], "relax.Expr | None"]
"""A rule that needs the builder: it writes a function of its own."""


# --- one value at a time --------------------------------------------------------------------------


def clamped(
    x: relax.Expr, least: float | None, greatest: float | None, *, of: relax.Expr | None = None
) -> relax.Expr:
    """A value that is neither less nor more stays, and so does NaN.

    of: a tensor of the type of `x`, if that is not known yet.
    """
    typed = x if of is None else of
    if least is not None:
        low = like(least, typed)
        x = relax.op.where(relax.op.less(x, low), low, x)
    if greatest is not None:
        high = like(greatest, typed)
        x = relax.op.where(relax.op.greater(x, high), high, x)
    return x


def larger(a: relax.Expr, b: relax.Expr) -> relax.Expr:
    """The maximum of two tensors; NaN if either is."""
    return _picked(relax.op.greater(a, b), a, b)


def smaller(a: relax.Expr, b: relax.Expr) -> relax.Expr:
    """The minimum of two tensors; NaN if either is."""
    return _picked(relax.op.less(a, b), a, b)


def _picked(first: relax.Expr, a: relax.Expr, b: relax.Expr) -> relax.Expr:
    if is_float(a):
        first = relax.op.logical_or(first, relax.op.isnan(a))
    return relax.op.where(first, a, b)


def _clamp(lowest: str | float | None, highest: str | float | None) -> Rule:
    """Between numbers, or arguments of these names."""

    def rule(args: Mapping[str, Any]) -> relax.Expr | None:
        x = args["self"]
        bounds = [args[v] if isinstance(v, str) else v for v in (lowest, highest)]
        fits = is_float(x) or not any(isinstance(bound, float) for bound in bounds)
        return clamped(x, *bounds) if fits else None

    return rule


def _hardsigmoid(args: Mapping[str, Any]) -> relax.Expr:
    x = args["self"]
    return relax.op.divide(clamped(relax.op.add(x, like(3, x)), 0, 6, of=x), like(6, x))


def _elu(args: Mapping[str, Any]) -> relax.Expr:
    # TVM's importer does not look at the two scales, which make SELU of it.
    x = args["self"]
    inside = relax.op.multiply(clamped(x, None, 0), like(args["input_scale"], x))
    falling = relax.op.subtract(relax.op.exp(inside), like(1, x))
    low = relax.op.multiply(falling, like(args["alpha"] * args["scale"], x))
    return relax.op.add(relax.op.multiply(clamped(x, 0, None), like(args["scale"], x)), low)


def _of_two(operator: Callable[[relax.Expr, relax.Expr], relax.Expr]) -> Rule:
    def rule(args: Mapping[str, Any]) -> relax.Expr | None:
        a, b = args["self"], args["other"]
        return operator(a, b) if dtype_of(a) == dtype_of(b) else None

    return rule


def _clamp_by_tensors(args: Mapping[str, Any]) -> relax.Expr | None:
    x, least, greatest = args["self"], args["min"], args["max"]
    if any(dtype_of(bound) != dtype_of(x) for bound in (least, greatest) if bound is not None):
        return None
    return _between(x, least, greatest)


def _between(x: relax.Expr, least: relax.Expr | None, greatest: relax.Expr | None) -> relax.Expr:
    if greatest is None:
        return larger(x, least)
    if least is None:
        return smaller(x, greatest)
    return smaller(greatest, larger(x, least))  # what is known about the first is asked for


RULES: dict[Any, Rule] = {
    aten.relu.default: _clamp(0, None),
    aten.relu6.default: _clamp(0, 6),
    aten.clamp.default: _clamp("min", "max"),
    aten.clamp_min.default: _clamp("min", None),
    aten.clamp_max.default: _clamp(None, "max"),
    aten.hardtanh.default: _clamp("min_val", "max_val"),
    aten.hardsigmoid.default: _hardsigmoid,
    aten.elu.default: _elu,
    aten.maximum.default: _of_two(larger),
    aten.minimum.default: _of_two(smaller),
    aten.clamp.Tensor: _clamp_by_tensors,
}


# --- many values ----------------------------------------------------------------------------------


def _isnan(x: tirx.Expr, dtype: str) -> tirx.Expr:
    return tirx.isnan(x) if "float" in dtype else tirx.const(False, "bool")


def _worst(dtype: str, *, least: bool) -> tirx.Expr:
    """What any other value beats: infinity, where there is one."""
    if "float" not in dtype:
        return tirx.max_value(dtype) if least else tirx.min_value(dtype)
    infinity = tirx.infinity(dtype)
    return infinity if least else -infinity


def _extreme(dtype: str, *, least: bool) -> Any:
    """A reduction to the greatest value, or to the least; to NaN if there is one."""

    def combine(a: tirx.Expr, b: tirx.Expr) -> tirx.Expr:
        better = a < b if least else a > b
        return tirx.Select(tirx.Or(better, _isnan(a, dtype)), a, b)

    return te.comm_reducer(combine, lambda _: _worst(dtype, least=least))


def _place(dtype: str, *, least: bool) -> Any:
    """A reduction to the place of the greatest or least value, and to the value: the first such."""

    def combine(a: Sequence[tirx.Expr], b: Sequence[tirx.Expr]) -> tuple[tirx.Expr, tirx.Expr]:
        (at, x), (other, y) = a, b
        better = x < y if least else x > y
        beats = tirx.Or(better, tirx.And(_isnan(x, dtype), tirx.Not(_isnan(y, dtype))))
        same = tirx.Or(x == y, tirx.And(_isnan(x, dtype), _isnan(y, dtype)))
        first = tirx.Or(beats, tirx.And(same, at < other))
        return tirx.Select(first, at, other), tirx.Select(first, x, y)

    def identity(*_: object) -> tuple[tirx.Expr, tirx.Expr]:
        return tirx.max_value("int64"), _worst(dtype, least=least)

    return te.comm_reducer(combine, identity)


def _axes(dims: Sequence[int], rank: int) -> list[int]:
    return sorted(d % rank for d in dims) or list(range(rank))


def _kept(shape: Sequence[int], axes: Sequence[int], *, keepdim: bool) -> list[int]:
    sizes = [1 if i in axes else size for i, size in enumerate(shape)]
    return [size for i, size in enumerate(sizes) if keepdim or i not in axes]


def _walk(
    shape: Sequence[int], axes: Sequence[int], *, keepdim: bool
) -> tuple[list[Any], Callable[[Sequence[Any]], list[Any]]]:
    """Reduction axes, and from the indices of a result to those of the input."""
    reduced = {axis: te.reduce_axis((0, shape[axis])) for axis in axes}

    def index(place: Sequence[Any]) -> list[Any]:
        left = iter(place)
        found = []
        for axis in range(len(shape)):
            at = next(left) if keepdim or axis not in reduced else None
            found.append(reduced.get(axis, at))
        return found

    return list(reduced.values()), index


def _reduced(*, least: bool) -> BuilderRule:
    def rule(builder: relax.BlockBuilder, args: Mapping[str, Any]) -> relax.Expr | None:
        x = args["self"]
        shape, keepdim = _shape(x), bool(args["keepdim"])
        axes = _axes(args["dim"], len(shape))

        def compute(data: te.Tensor) -> te.Tensor:
            over, index = _walk(shape, axes, keepdim=keepdim)
            reduce = _extreme(dtype_of(x), least=least)
            sizes = _kept(shape, axes, keepdim=keepdim)
            return te.compute(sizes, lambda *at: reduce(data[tuple(index(at))], axis=over))

        return builder.call_te(compute, x)

    return rule


def _found(
    builder: relax.BlockBuilder, x: relax.Expr, axis: int, *, keepdim: bool, least: bool
) -> relax.Expr:
    """A tuple of places (int64) and values along one axis."""
    shape = _shape(x)

    def compute(data: te.Tensor) -> list[te.Tensor]:
        over, index = _walk(shape, [axis], keepdim=keepdim)
        reduce = _place(dtype_of(x), least=least)

        def of(*at: Any) -> Any:
            place = index(at)
            return reduce((tirx.Cast("int64", place[axis]), data[tuple(place)]), axis=over)

        return list(te.compute(_kept(shape, [axis], keepdim=keepdim), of))

    return builder.emit(builder.call_te(compute, x))


def _arg(*, least: bool) -> BuilderRule:
    def rule(builder: relax.BlockBuilder, args: Mapping[str, Any]) -> relax.Expr | None:
        x, dim, keepdim = args["self"], args["dim"], bool(args["keepdim"])
        if dim is None and keepdim:
            return None
        if dim is None:
            x, dim = builder.emit(relax.op.reshape(x, [-1])), 0
        found = _found(builder, x, dim % len(_shape(x)), keepdim=keepdim, least=least)
        return relax.TupleGetItem(found, 0)

    return rule


def _max_with_places(builder: relax.BlockBuilder, args: Mapping[str, Any]) -> relax.Expr:
    x = args["self"]
    axis = args["dim"] % len(_shape(x))
    found = _found(builder, x, axis, keepdim=bool(args["keepdim"]), least=False)
    return relax.Tuple([relax.TupleGetItem(found, 1), relax.TupleGetItem(found, 0)])


def _topk(builder: relax.BlockBuilder, args: Mapping[str, Any]) -> relax.Expr:
    """NaN counts as the greatest, before infinity."""
    x = args["self"]
    axis, known = args["dim"] % len(_shape(x)), x
    if is_float(x):
        infinite, largest = like(float("inf"), x), like(float(np.finfo(dtype_of(x)).max), x)
        known = relax.op.where(relax.op.equal(x, infinite), largest, x)
        known = relax.op.where(relax.op.isnan(x), infinite, known)
    places = relax.op.topk(known, args["k"], axis, "indices", args["largest"], "int64")
    places = builder.emit(places)
    return relax.Tuple([relax.op.gather_elements(x, places, axis), places])


def _max_pool(builder: relax.BlockBuilder, args: Mapping[str, Any]) -> relax.Expr | None:
    """Over any number of axes; padding never wins."""
    x = args["self"]
    if not is_float(x):
        return None
    shape = _shape(x)
    axes = {"kernel_size": 0, "stride": 0, "padding": 0, "dilation": 0}
    given = {name: per_axis(args[name], x) if args[name] else None for name in axes}
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
        reduce, nothing = _extreme(dtype, least=False), _worst(dtype, least=False)

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


def _shape(x: relax.Expr) -> list[int]:
    return [int(size) for size in x.ty.shape]


BUILDER_RULES: dict[Any, BuilderRule] = {
    aten.amax.default: _reduced(least=False),
    aten.amin.default: _reduced(least=True),
    aten.argmax.default: _arg(least=False),
    aten.argmin.default: _arg(least=True),
    aten.max.dim: _max_with_places,
    aten.topk.default: _topk,
    aten.max_pool1d.default: _max_pool,
    aten.max_pool2d.default: _max_pool,
    aten.max_pool3d.default: _max_pool,
}

"""Sums, maxima and the like of many floats, and where they are; NaN stays NaN."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np
from tvm import relax, te, tirx

from qpc.backends.tvm.kernels.floats.reduction import ReduceDesc, reduction
from qpc.backends.tvm.lowering.floats.call import FloatCall
from qpc.backends.tvm.lowering.floats.extremes import extreme_of, isnan, worst
from qpc.backends.tvm.lowering.floats.largest import places
from qpc.backends.tvm.lowering.floats.rule import (
    Arguments,
    BuilderRule,
    FloatRule,
    KernelWriter,
    Rule,
    dtype_of,
    is_float,
    like,
    shape_of,
)
from qpc.calls import aten
from qpc.types import dtype_name


def _place(dtype: str, *, least: bool) -> Any:
    """A reduction to the place of the greatest or least value, and to the value: the first such."""

    def combine(a: Sequence[tirx.Expr], b: Sequence[tirx.Expr]) -> tuple[tirx.Expr, tirx.Expr]:
        (at, x), (other, y) = a, b
        better = x < y if least else x > y
        beats = tirx.Or(better, tirx.And(isnan(x, dtype), tirx.Not(isnan(y, dtype))))
        same = tirx.Or(x == y, tirx.And(isnan(x, dtype), isnan(y, dtype)))
        first = tirx.Or(beats, tirx.And(same, at < other))
        return tirx.Select(first, at, other), tirx.Select(first, x, y)

    def identity(*_: object) -> tuple[tirx.Expr, tirx.Expr]:
        return tirx.max_value("int64"), worst(dtype, least=least)

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


def _kernel(operation: str) -> KernelWriter:
    """A reduction along axes that are neighbours, as those of size 1 are with any, by a kernel."""

    def rule(call: FloatCall) -> relax.Expr | None:
        if not call.are_floats("self") or call.args.get("dtype") is not None:
            return None
        x, given = call.args["self"], call.args.get("dim")
        shape, keepdim = shape_of(x), bool(call.args.get("keepdim"))
        axes = _axes([given] if isinstance(given, int) else given or (), len(shape))
        long = [axis for axis in axes if shape[axis] > 1] or axes[:1]
        first, last = long[0], long[-1]
        if any(shape[axis] > 1 and axis not in axes for axis in range(first, last)):
            return None
        sizes = prod(shape[:first]), prod(shape[first : last + 1]), prod(shape[last + 1 :])
        made = reduction(call.isa, ReduceDesc(operation, *sizes), call.threads)
        return call.kernel(made, [x], _kept(shape, axes, keepdim=keepdim))

    return rule


def _reduced(*, least: bool) -> BuilderRule:
    def rule(builder: relax.BlockBuilder, args: Arguments) -> relax.Expr | None:
        x = args["self"]
        shape, keepdim = shape_of(x), bool(args["keepdim"])
        axes = _axes(args["dim"], len(shape))

        def compute(data: te.Tensor) -> te.Tensor:
            over, index = _walk(shape, axes, keepdim=keepdim)
            reduce = extreme_of(dtype_of(x), least=least)
            sizes = _kept(shape, axes, keepdim=keepdim)
            return te.compute(sizes, lambda *at: reduce(data[tuple(index(at))], axis=over))

        return builder.call_te(compute, x)

    return rule


def _found(
    builder: relax.BlockBuilder, x: relax.Expr, axis: int, *, keepdim: bool, least: bool
) -> relax.Expr:
    """A tuple of places (int64) and values along one axis."""
    shape = shape_of(x)

    def compute(data: te.Tensor) -> list[te.Tensor]:
        over, index = _walk(shape, [axis], keepdim=keepdim)
        reduce = _place(dtype_of(x), least=least)

        def of(*at: Any) -> Any:
            place = index(at)
            return reduce((tirx.Cast("int64", place[axis]), data[tuple(place)]), axis=over)

        return list(te.compute(_kept(shape, [axis], keepdim=keepdim), of))

    return builder.emit(builder.call_te(compute, x))


def _arg(*, least: bool) -> BuilderRule:
    def rule(builder: relax.BlockBuilder, args: Arguments) -> relax.Expr | None:
        x, dim, keepdim = args["self"], args["dim"], bool(args["keepdim"])
        if dim is None and keepdim:
            return None
        if dim is None:
            x, dim = builder.emit(relax.op.reshape(x, [-1])), 0
        found = _found(builder, x, dim % len(shape_of(x)), keepdim=keepdim, least=least)
        return relax.TupleGetItem(found, 0)

    return rule


def _max_with_places(builder: relax.BlockBuilder, args: Arguments) -> relax.Expr:
    x = args["self"]
    axis = args["dim"] % len(shape_of(x))
    found = _found(builder, x, axis, keepdim=bool(args["keepdim"]), least=False)
    return relax.Tuple([relax.TupleGetItem(found, 1), relax.TupleGetItem(found, 0)])


def _topk(builder: relax.BlockBuilder, args: Arguments) -> relax.Expr:
    """NaN counts as the greatest, before infinity."""
    x = args["self"]
    axis, known = args["dim"] % len(shape_of(x)), x
    if is_float(x):
        infinite, largest = like(float("inf"), x), like(float(np.finfo(dtype_of(x)).max), x)
        known = relax.op.where(relax.op.equal(x, infinite), largest, x)
        known = relax.op.where(relax.op.isnan(x), infinite, known)
        if dtype_of(x) in ("float16", "bfloat16"):
            known = relax.op.astype(known, "float32")
    found = places(builder, builder.emit(known), args["k"], axis, largest=bool(args["largest"]))
    return relax.Tuple([relax.op.gather_elements(x, found, axis), found])


def _running(operator: Callable[..., relax.Expr]) -> Rule:
    """A sum or product of all values so far; integers and truth values give int64."""

    def rule(args: Arguments) -> relax.Expr | None:
        x, wanted = args["self"], args.get("dtype")
        own = dtype_of(x) if is_float(x) else "int64"
        dtype = own if wanted is None else dtype_name(wanted)
        return operator(relax.op.astype(x, dtype), axis=args["dim"], dtype=dtype)

    return rule


def _product(args: Arguments) -> relax.Expr | None:
    """That of integers and truth values, which is an int64."""
    x, axis = args["self"], args.get("dim")
    if args.get("dtype") is not None or is_float(x):
        return None
    return relax.op.prod(relax.op.astype(x, "int64"), axis, keepdims=bool(args.get("keepdim")))


RULES: dict[object, FloatRule] = {
    aten.amax.default: FloatRule(kernel=_kernel("largest"), writes=_reduced(least=False)),
    aten.amin.default: FloatRule(kernel=_kernel("smallest"), writes=_reduced(least=True)),
    aten.mean.dim: FloatRule(kernel=_kernel("mean"), importer=True),
    aten.prod.default: FloatRule(_product, kernel=_kernel("product")),
    aten.prod.dim_int: FloatRule(_product, kernel=_kernel("product")),
    aten.sum.dim_IntList: FloatRule(kernel=_kernel("sum"), importer=True),
    aten.argmax.default: FloatRule(writes=_arg(least=False), importer=True),
    aten.argmin.default: FloatRule(writes=_arg(least=True), importer=True),
    aten.max.dim: FloatRule(writes=_max_with_places),
    aten.topk.default: FloatRule(writes=_topk),
    aten.cumprod.default: FloatRule(_running(relax.op.cumprod)),
    aten.cumsum.default: FloatRule(_running(relax.op.cumsum)),
}

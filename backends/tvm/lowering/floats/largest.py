"""The places of the largest or smallest values of rows, in order; of equal values, the first first.

TVM has functions of its runtime for that; these kernels need none, so that models with them run
everywhere. A few values are kept in a sorted list, into which few of a long row get. For many, the
whole row is sorted by merging: each value of a run finds by bisection how many of the neighbouring
run come before it, which with its place in its own is where it goes.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

from tvm import relax, tirx

from qpc.backends.tvm.kernels.emit import Flat, bind, loop, loop_between, prim_func, scratch, when
from qpc.backends.tvm.kernels.kernel import TensorType, kernel_name
from qpc.backends.tvm.lowering.floats.rule import dtype_of, shape_of

_FEW = 64
"""Values of a list: below that, moving them up takes less than sorting all."""
_OPAQUE = 8  # TVM's pattern of operators that are fused with no others

_Better = Callable[[Any, Any], Any]


def places(
    builder: relax.BlockBuilder, x: relax.Expr, k: int, axis: int, *, largest: bool
) -> relax.Var:
    """Where along an axis its `k` largest or smallest values are, int64; there is no NaN."""
    order = [*(i for i in range(len(shape_of(x))) if i != axis), axis]
    back = [order.index(i) for i in range(len(order))]
    moved = builder.emit(relax.op.permute_dims(x, order)) if axis != order[axis] else x
    *outer, n = shape_of(moved)
    rows, dtype = prod(outer), dtype_of(x)
    flat = builder.emit(relax.op.reshape(moved, [rows, n]))
    name = kernel_name("topk", rows, n, k, largest, dtype)
    body = _listed(rows, n, k, largest) if k <= _FEW else _merged(rows, n, k, largest)
    function = prim_func(name, [TensorType((rows, n), dtype), TensorType((rows, k), "int64")], body)
    called = builder.add_func(function.with_attr("op_pattern", _OPAQUE), name)
    output = relax.TensorType((rows, k), "int64")
    found = builder.emit(relax.call_tir(called, [flat], output))
    found = builder.emit(relax.op.reshape(found, [*outer, k]))
    return builder.emit(relax.op.permute_dims(found, back)) if moved is not x else found


def _better(largest: bool) -> _Better:
    return (lambda a, b: a > b) if largest else (lambda a, b: a < b)


def _listed(rows: int, n: int, k: int, largest: bool) -> Callable[[Flat, Flat], None]:
    better = _better(largest)

    def body(x: Flat, out: Flat) -> None:
        best, place = scratch(k, x.dtype), scratch(1, "int32")
        with loop(rows) as row, loop_between(0, n) as i:
            value = bind(x.load(row * n + i))
            with when(tirx.Or(i < k, better(value, best.load(k - 1)))):
                place.store(0, tirx.min(i, k - 1))
                if k > 1:
                    with loop_between(0, k - 1) as down:
                        at = bind(k - 1 - down)
                        with when(tirx.And(at <= i, better(value, best.load(at - 1)))):
                            best.store(at, best.load(at - 1))
                            out.store(row * k + at, out.load(row * k + at - 1))
                            place.store(0, at - 1)
                best.store(place.load(0), value)
                out.store(row * k + place.load(0), tirx.Cast("int64", i))

    return body


def _merged(rows: int, n: int, k: int, largest: bool) -> Callable[[Flat, Flat], None]:
    better = _better(largest)

    def body(x: Flat, out: Flat) -> None:
        source, target = scratch(n, "int32"), scratch(n, "int32")
        low, high = scratch(1, "int32"), scratch(1, "int32")
        with loop(rows) as row:
            with loop_between(0, n) as i:
                source.store(i, i)
            sorted_, other, width = source, target, 1
            while width < n:
                _merge(x.part(row * n), sorted_, other, (low, high), n, width, better)
                sorted_, other, width = other, sorted_, 2 * width
            with loop_between(0, k) as i:
                out.store(row * k + i, tirx.Cast("int64", sorted_.load(i)))

    return body


def _merge(
    x: Flat,
    source: Flat,
    target: Flat,
    between: tuple[Flat, Flat],
    n: int,
    width: int,
    better: _Better,
) -> None:
    """Merge each two runs of places, of `width`."""
    low, high = between
    with loop_between(0, n) as i:
        start = bind(tirx.floordiv(i, 2 * width) * (2 * width))
        middle = bind(tirx.min(start + width, n))
        end = bind(tirx.min(start + 2 * width, n))
        is_first = bind(i < middle)
        value = bind(x.load(source.load(i)))
        others = bind(tirx.Select(is_first, middle, start))
        low.store(0, 0)
        high.store(0, tirx.Select(is_first, end - middle, middle - start))
        with loop_between(0, width.bit_length()) as _, when(low.load(0) < high.load(0)):
            half = bind(tirx.floordiv(low.load(0) + high.load(0), 2))
            neighbour = bind(x.load(source.load(others + half)))
            # Of equal values, those of the first run stand before those of the second.
            before = bind(
                tirx.Or(
                    better(neighbour, value),
                    tirx.And(tirx.Not(is_first), tirx.Not(better(value, neighbour))),
                )
            )
            low.store(0, tirx.Select(before, half + 1, low.load(0)))
            high.store(0, tirx.Select(before, high.load(0), half))
        own = tirx.Select(is_first, i, i - middle + start)
        target.store(own + low.load(0), source.load(i))

"""Sums, means, maxima and minima of float32 along neighbouring axes.

As in `rows`: the elements of a result lie side by side, or those of neighbouring results do. A
result is computed by one thread, in one order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

import numpy as np
from tvm.tirx import Expr, PrimFunc
from tvm.tirx.script import builder as T

from qpc.backends.tvm.kernels.emit import (
    Flat,
    Index,
    bind,
    float32,
    integer,
    local,
    loop,
    prim_func,
    reinterpret,
    split,
    tasks,
)
from qpc.backends.tvm.kernels.floats.functions import Functions
from qpc.backends.tvm.kernels.floats.product import worthwhile
from qpc.backends.tvm.kernels.floats.reduce import ABREAST, Row, lanes_joined, plus
from qpc.backends.tvm.kernels.isa.base import Isa
from qpc.backends.tvm.kernels.kernel import Kernel, TensorType, kernel_name

_WORK = 2  # instructions for a vector
_MAGNITUDE, _INFINITE = 0x7FFFFFFF, 0x7F800000  # bits of a float: all but the sign, and infinity


@dataclass(frozen=True)
class ReduceDesc:
    """x[outer, size, inner] without its middle axis. operation: a key of `OPERATIONS`."""

    operation: str
    outer: int
    size: int
    inner: int


@dataclass(frozen=True)
class _Operation:
    """How two vectors become one, and what changes nothing; extremes are NaN where anything is."""

    join: Callable[[Expr, Expr], Expr]
    begin: float
    is_extreme: bool = False

    def start(self, lanes: int) -> Expr:
        return Functions(lanes).number(self.begin)


OPERATIONS: Mapping[str, _Operation] = {
    "sum": _Operation(plus, 0.0),
    "mean": _Operation(plus, 0.0),
    "product": _Operation(lambda a, b: a * b, 1.0),
    "largest": _Operation(T.max, -np.inf, is_extreme=True),
    "smallest": _Operation(T.min, np.inf, is_extreme=True),
}


def reduction(isa: Isa, desc: ReduceDesc, threads: int = 1) -> Kernel:
    """The kernel of a reduction; its result is [outer, inner]."""
    elements = desc.outer * desc.size * desc.inner
    name, func = _function(isa, desc, worthwhile(isa, threads, elements * _WORK))
    x, out = _types(desc)
    return Kernel(name, func, (x,), (), out)


def _types(desc: ReduceDesc) -> tuple[TensorType, TensorType]:
    whole = TensorType((desc.outer, desc.size, desc.inner), "float32")
    return whole, TensorType((desc.outer, desc.inner), "float32")


@cache
def _function(isa: Isa, desc: ReduceDesc, threads: int) -> tuple[str, PrimFunc]:
    def body(x: Flat, out: Flat) -> None:
        if desc.inner == 1:
            with tasks(desc.outer, threads) as (_, index):
                row = Row(x, bind(index * desc.size), desc.size, isa.lanes)
                out.store(index, _of_row(desc, row))
            return
        first = 0
        for lanes, abreast in ((isa.lanes, ABREAST), (isa.lanes, 1), (1, 1)):
            count = (desc.inner - first) // (lanes * abreast)
            if count:
                with tasks(desc.outer * count, threads) as (_, task):
                    index, number = split(task, desc.outer, count)
                    at = bind(first + number * (lanes * abreast))
                    source = x.part(bind(index * (desc.size * desc.inner) + at))
                    _across(desc, source, out.part(bind(index * desc.inner + at)), lanes, abreast)
            first += count * lanes * abreast

    name = kernel_name(f"float_{desc.operation}", isa, desc, threads)
    return name, prim_func(name, _types(desc), body)


def _of_row(desc: ReduceDesc, row: Row) -> Expr:
    operation = OPERATIONS[desc.operation]
    begin = operation.start(row.lanes)
    seen = local(row.lanes, "int32")
    if operation.is_extreme:
        seen.store(0, integer(0, lanes=row.lanes), row.lanes)

    def value(at: Index, used: int) -> Expr:
        found = bind(row.load(at, used, begin))
        if operation.is_extreme:
            _see(seen, 0, found, row.lanes)
        return found

    made = _ended(desc, row.reduce(operation.join, value, begin), 1)
    if not operation.is_extreme:
        return made
    return _or_nan(made, lanes_joined(T.max, seen.load(0, row.lanes), row.lanes), 1)


def _across(desc: ReduceDesc, x: Flat, out: Flat, lanes: int, abreast: int) -> None:
    """`abreast` vectors of results, whose elements are `desc.inner` apart."""
    operation = OPERATIONS[desc.operation]
    kept, seen = local(abreast * lanes, "float32"), local(abreast * lanes, "int32")
    places = [number * lanes for number in range(abreast)]
    for at in places:
        kept.store(at, operation.start(lanes), lanes)
        if operation.is_extreme:
            seen.store(at, integer(0, lanes=lanes), lanes)
    with loop(desc.size) as i:
        for at in places:
            value = bind(x.load(i * desc.inner + at, lanes))
            kept.store(at, operation.join(kept.load(at, lanes), value), lanes)
            if operation.is_extreme:
                _see(seen, at, value, lanes)
    for at in places:
        value = _ended(desc, kept.load(at, lanes), lanes)
        if operation.is_extreme:
            value = _or_nan(value, seen.load(at, lanes), lanes)
        out.store(at, value, lanes)


def _ended(desc: ReduceDesc, value: Expr, lanes: int) -> Expr:
    return value / float32(desc.size, lanes) if desc.operation == "mean" else value


def _see(seen: Flat, at: Index, value: Expr, lanes: int) -> None:
    """Keep the largest magnitude, as bits: those of NaN are beyond infinity's."""
    bits = reinterpret(value, "int32", lanes)
    size = T.bitwise_and(bits, integer(_MAGNITUDE, lanes=lanes))
    seen.store(at, T.max(seen.load(at, lanes), size), lanes)


def _or_nan(value: Expr, seen: Expr, lanes: int) -> Expr:
    found = seen > integer(_INFINITE, lanes=lanes)
    return T.Select(found, float32(np.nan, lanes), value)

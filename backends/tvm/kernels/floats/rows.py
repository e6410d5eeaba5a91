"""Softmax and normalization of float32, a row at a time.

The elements of a row lie side by side. Where they do not, rows side by side are worked on together,
one in each lane (`across`). A row is computed by one thread, in one order.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from math import prod

import numpy as np
from tvm.tirx import Expr, PrimFunc
from tvm.tirx.script import builder as T

from qpc.backends.tvm.kernels.emit import (
    Flat,
    Index,
    bind,
    float32,
    local,
    loop,
    prim_func,
    splat,
    split,
    tasks,
)
from qpc.backends.tvm.kernels.floats.functions import Functions
from qpc.backends.tvm.kernels.floats.panels import zero
from qpc.backends.tvm.kernels.floats.product import worthwhile
from qpc.backends.tvm.kernels.floats.reduce import Row, plus
from qpc.backends.tvm.kernels.isa.base import Isa
from qpc.backends.tvm.kernels.kernel import Kernel, TensorType, kernel_name

_WORK = {"softmax": 24, "norm": 6}  # instructions for a vector


# --- softmax --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SoftmaxDesc:
    """Softmax, or its logarithm, over the middle axis of x[outer, size, inner]."""

    outer: int
    size: int
    inner: int
    logarithm: bool = False

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of input and result."""
        return (self.outer, self.size, self.inner)


def softmax(isa: Isa, desc: SoftmaxDesc, threads: int = 1) -> Kernel:
    """The kernel of softmax; shares that would be no normal numbers are 0."""
    threads = worthwhile(isa, threads, prod(desc.shape) * _WORK["softmax"])
    name, func = _softmax_function(isa, desc, threads)
    kind = TensorType(desc.shape, "float32")
    return Kernel(name, func, (kind,), (), kind)


@cache
def _softmax_function(isa: Isa, desc: SoftmaxDesc, threads: int) -> tuple[str, PrimFunc]:
    def body(x: Flat, out: Flat) -> None:
        if desc.inner == 1:
            with tasks(desc.outer, threads) as (_, index):
                start = bind(index * desc.size)
                rows = (Row(data, start, desc.size, isa.lanes) for data in (x, out))
                _softmax_row(*rows, logarithm=desc.logarithm)
            return
        whole, rest = divmod(desc.inner, isa.lanes)
        for first, count, lanes in ((0, whole, isa.lanes), (whole * isa.lanes, 1, rest)):
            if not count or not lanes:
                continue
            with tasks(desc.outer * count, threads) as (_, task):
                index, vector = split(task, desc.outer, count)
                start = bind(index * (desc.size * desc.inner) + first + vector * lanes)
                _softmax_across(desc, x.part(start), out.part(start), lanes)

    name = kernel_name("float_softmax", isa, desc, threads)
    return name, prim_func(name, (TensorType(desc.shape, "float32"),) * 2, body)


def _softmax_row(x: Row, out: Row, *, logarithm: bool) -> None:
    lanes = x.lanes
    functions, nothing = Functions(lanes), float32(-np.inf, lanes)
    most = x.reduce(T.max, lambda at, used: x.load(at, used, nothing), nothing)
    greatest = bind(splat(most, lanes))

    def share(at: Index, used: int) -> Expr:
        return functions.exp_negative(bind(x.load(at, used, nothing) - greatest))

    def kept_share(at: Index, used: int) -> Expr:
        made = bind(share(at, used))
        out.store(at, used, made)
        return made

    if logarithm:
        total = x.reduce(plus, share, zero(lanes))
        offset = bind(splat(bind(T.log(total)), lanes))
        x.each(
            lambda at, used, _: out.store(
                at, used, bind(x.load(at, used, nothing) - greatest) - offset
            )
        )
        return
    total = x.reduce(plus, kept_share, zero(lanes))
    factor = bind(splat(bind(float32(1.0) / total), lanes))
    out.each(lambda at, used, _: out.store(at, used, out.load(at, used, nothing) * factor))


def _softmax_across(desc: SoftmaxDesc, x: Flat, out: Flat, lanes: int) -> None:
    """Rows side by side: `lanes` of them, whose elements are `desc.inner` apart."""
    functions, kept = Functions(lanes), local(2 * lanes, "float32")
    kept.store(0, float32(-np.inf, lanes), lanes)
    with loop(desc.size) as i:
        kept.store(0, T.max(kept.load(0, lanes), x.load(i * desc.inner, lanes)), lanes)
    greatest = bind(kept.load(0, lanes))
    kept.store(lanes, zero(lanes), lanes)
    with loop(desc.size) as i:
        share = bind(functions.exp_negative(bind(x.load(i * desc.inner, lanes) - greatest)))
        if not desc.logarithm:
            out.store(i * desc.inner, share, lanes)
        kept.store(lanes, kept.load(lanes, lanes) + share, lanes)
    if desc.logarithm:
        offset = bind(functions.log(bind(kept.load(lanes, lanes))))
        with loop(desc.size) as i:
            value = bind(x.load(i * desc.inner, lanes) - greatest) - offset
            out.store(i * desc.inner, value, lanes)
        return
    factor = bind(float32(1.0, lanes) / kept.load(lanes, lanes))
    with loop(desc.size) as i:
        out.store(i * desc.inner, out.load(i * desc.inner, lanes) * factor, lanes)


# --- normalization --------------------------------------------------------------------------------


@dataclass(frozen=True)
class NormDesc:
    """Rows of x[rows, size], each to mean 0 and deviation 1.

    centred: whether the mean is taken off. weight, bias: whether there are any: for each element,
    or for `channels` parts of equal size, of which every row has the next `in_row`.
    """

    rows: int
    size: int
    epsilon: float
    centred: bool = True
    weight: bool = False
    bias: bool = False
    channels: int = 0
    in_row: int = 0

    @property
    def affine(self) -> int:
        """Numbers of weights and of biases."""
        return self.channels or self.size


def norm(isa: Isa, desc: NormDesc, threads: int = 1) -> Kernel:
    """The kernel of layer norm, RMS norm, and norms of groups of channels.

    Its inputs are x and, where there are any, weight and bias. The variance is that of deviations
    from the mean: of sums of squares, rounding may leave nothing.
    """
    threads = worthwhile(isa, threads, desc.rows * desc.size * _WORK["norm"])
    name, func = _norm_function(isa, desc, threads)
    kind, numbers = TensorType((desc.rows, desc.size), "float32"), (desc.affine,)
    others = (TensorType(numbers, "float32"),) * (desc.weight + desc.bias)
    return Kernel(name, func, (kind, *others), (), kind)


@cache
def _norm_function(isa: Isa, desc: NormDesc, threads: int) -> tuple[str, PrimFunc]:
    def body(x: Flat, *rest: Flat) -> None:
        *others, out = rest
        weight = others[0] if desc.weight else None
        bias = others[-1] if desc.bias else None
        with tasks(desc.rows, threads) as (_, index):
            start = bind(index * desc.size)
            code = _Norm(desc, isa.lanes, x, start, weight, bias, out)
            code.emit(index)

    kind = TensorType((desc.rows, desc.size), "float32")
    others = (TensorType((desc.affine,), "float32"),) * (desc.weight + desc.bias)
    name = kernel_name("float_norm", isa, desc, threads)
    return name, prim_func(name, (kind, *others, kind), body)


@dataclass(frozen=True)
class _Norm:
    """Emits the code for one row."""

    desc: NormDesc
    lanes: int
    x: Flat
    start: Index
    weight: Flat | None
    bias: Flat | None
    out: Flat

    def emit(self, index: Index) -> None:
        desc, lanes = self.desc, self.lanes
        row, share = self._row(0, desc.size), float32(1 / desc.size)
        mean = zero(lanes)
        if desc.centred:
            # Apart from the first element, so that the mean of equal ones is that element: a small
            # epsilon magnifies what is left of a difference.
            one = bind(self.x.load(self.start))
            first = bind(splat(one, lanes))
            total = row.reduce(plus, lambda at, u: row.load(at, u, first) - first, zero(lanes))
            mean = bind(splat(bind(one + total * share), lanes))

        def square(at: Index, used: int) -> Expr:
            value = row.load(at, used, mean)
            apart = bind(value - mean if desc.centred else value)
            return apart * apart

        variance = row.reduce(plus, square, zero(lanes)) * share
        spread = T.sqrt(bind(variance + float32(desc.epsilon) if desc.epsilon else variance))
        factor = bind(float32(1.0) / spread)
        if desc.channels:
            self._by_channel(index, mean, factor)
        else:
            self._by_element(mean, bind(splat(factor, lanes)))

    def _row(self, first: Index, size: int, data: Flat | None = None) -> Row:
        return Row(self.x if data is None else data, self.start + first, size, self.lanes)

    def _by_element(self, mean: Expr, factor: Expr) -> None:
        row, out = self._row(0, self.desc.size), self._row(0, self.desc.size, self.out)
        nothing = zero(self.lanes)
        weight, bias = (
            None if data is None else Row(data, 0, self.desc.size, self.lanes)
            for data in (self.weight, self.bias)
        )

        def write(at: Index, used: int, _: int) -> None:
            value = row.load(at, used, nothing)
            value = (value - mean if self.desc.centred else value) * factor
            value = value if weight is None else value * weight.load(at, used, nothing)
            value = value if bias is None else value + bias.load(at, used, nothing)
            out.store(at, used, value)

        row.each(write)

    def _by_channel(self, index: Index, mean: Expr, factor: Expr) -> None:
        desc = self.desc
        size = desc.size // desc.in_row
        with loop(desc.in_row) as i:
            channel = bind((index * desc.in_row + i) % desc.channels)
            scale = factor if self.weight is None else factor * self.weight.load(channel)
            scale = bind(splat(bind(scale), self.lanes))
            offset = None
            if self.bias is not None:
                offset = bind(splat(self.bias.load(channel), self.lanes))
            first = bind(i * size)
            row, out = self._row(first, size), self._row(first, size, self.out)

            def write(at: Index, used: int, _: int, row: Row = row, out: Row = out) -> None:
                value = (row.load(at, used, zero(self.lanes)) - mean) * scale
                out.store(at, used, value if offset is None else value + offset)

            row.each(write)

"""Sums and maxima of rows of float32."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvm.tirx import Expr

from qpc.backends.tvm.kernels.emit import Flat, Index, bind, local, loop, shuffle
from qpc.backends.tvm.kernels.floats.panels import widened

Operation = Callable[[Expr, Expr], Expr]

ABREAST = 4
"""How many vectors are worked on at a time, so that none waits for the one before."""


def lanes_joined(operation: Operation, value: Expr, lanes: int) -> Expr:
    """One number of all lanes, halves with halves."""
    while lanes > 1:
        value, half = bind(value), lanes // 2
        first = shuffle([value], range(half))
        second = shuffle([value], range(half, 2 * half))
        joined = operation(first, second)
        if lanes % 2:
            joined = operation(joined, shuffle([value], [lanes - 1] * half))
        value, lanes = joined, half
    return bind(value)


def joined(operation: Operation, sums: Flat, count: int, lanes: int) -> Expr:
    """One number of `count` vectors in registers."""
    values = [sums.load(i * lanes, lanes) for i in range(count)]
    while len(values) > 1:
        pairs = list(zip(values[::2], values[1::2], strict=False))
        values = [bind(operation(a, b)) for a, b in pairs] + values[2 * len(pairs) :]
    return lanes_joined(operation, values[0], lanes)


@dataclass(frozen=True)
class Row:
    """A row of `size` elements in memory, as vectors of `lanes`; the last one may be shorter."""

    data: Flat
    start: Index
    size: int
    lanes: int

    def each(self, do: Callable[[Index, int, int], None], at_once: int = 1) -> None:
        """Call `do(offset, used lanes, number)` for all vectors; numbers are below `at_once`."""
        whole, rest = divmod(self.size, self.lanes)
        groups, left = divmod(whole, at_once)
        if groups:
            with loop(groups) as i:
                for number in range(at_once):
                    do(bind((i * at_once + number) * self.lanes), self.lanes, number)
        for number in range(left):
            do((groups * at_once + number) * self.lanes, self.lanes, number)
        if rest:
            do(whole * self.lanes, rest, left % at_once)

    def load(self, offset: Index, used: int, others: Expr) -> Expr:
        """A vector, of which the lanes that are not used are from `others`."""
        return widened(self.data.load(self.start + offset, used), used, others, self.lanes)

    def store(self, offset: Index, used: int, value: Expr) -> None:
        """Write the used lanes of a vector."""
        kept = value if used == self.lanes else shuffle([value], range(used))
        self.data.store(self.start + offset, kept, used)

    def reduce(
        self,
        operation: Callable[[Expr, Expr], Expr],
        value: Callable[[Index, int], Expr],
        begin: Expr,
    ) -> Expr:
        """One number of `value(offset, used lanes)` of all vectors."""
        count = min(ABREAST, max(1, self.size // self.lanes))
        kept = local(count * self.lanes, "float32")
        for i in range(count):
            kept.store(i * self.lanes, begin, self.lanes)

        def add(offset: Index, used: int, number: int) -> None:
            at = number * self.lanes
            made = operation(kept.load(at, self.lanes), value(offset, used))
            kept.store(at, made, self.lanes)

        self.each(add, count)
        return joined(operation, kept, count, self.lanes)


def plus(a: Expr, b: Expr) -> Expr:
    """The sum of two vectors."""
    return a + b

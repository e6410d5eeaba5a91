"""Sums and maxima of rows of float32."""

from __future__ import annotations

from collections.abc import Callable

from tvm.tirx import Expr

from qpc.backends.tvm.kernels.emit import Flat, bind, shuffle

Operation = Callable[[Expr, Expr], Expr]


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

"""Values that go where indices say, into a copy of a tensor; of any type."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from tvm import tirx
from tvm.tirx import PrimFunc

from qpc.backends.tvm.kernels.emit import Flat, bind, copy, loop_between, prim_func
from qpc.backends.tvm.kernels.kernel import Kernel, TensorType, kernel_name


@dataclass(frozen=True)
class ScatterDesc:
    """x[outer, size, inner], places[count] (int64) below `size`, values[outer, count, inner].

    accumulate: whether values are added; else of equal places the last one counts.
    """

    outer: int
    size: int
    inner: int
    count: int
    dtype: str
    accumulate: bool

    @property
    def types(self) -> tuple[TensorType, TensorType, TensorType]:
        """Of the inputs; the result has that of the first."""
        return (
            TensorType((self.outer, self.size, self.inner), self.dtype),
            TensorType((self.count,), "int64"),
            TensorType((self.outer, self.count, self.inner), self.dtype),
        )


def scatter(desc: ScatterDesc) -> Kernel:
    """The kernel; one thread does it, in the order of the places."""
    name, func = _function(desc)
    return Kernel(name, func, desc.types, (), desc.types[0])


@cache
def _function(desc: ScatterDesc) -> tuple[str, PrimFunc]:
    def body(x: Flat, places: Flat, values: Flat, out: Flat) -> None:
        copy(out, 0, x, 0, desc.outer * desc.size * desc.inner)
        with loop_between(0, desc.outer) as i, loop_between(0, desc.count) as k:
            place = bind(tirx.Cast("int32", places.load(k)))
            to = bind((i * desc.size + place) * desc.inner)
            come = bind((i * desc.count + k) * desc.inner)
            with loop_between(0, desc.inner) as j:
                value = values.load(come + j)
                out.store(to + j, out.load(to + j) + value if desc.accumulate else value)

    name = kernel_name("scatter", desc)
    return name, prim_func(name, (*desc.types, desc.types[0]), body)

"""Helpers to write TIR with `tvm.script.ir_builder`: flat buffers, vectors, loops, byte copies.

Vectors are plain values: bind one with `bind` to use it twice, keep it in a `local` buffer to
change it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from tvm.script.ir_builder import IRBuilder
from tvm.tirx import Expr, PrimFunc, Shuffle
from tvm.tirx.script import builder as T

from qpc.backends.tvm.kernels.kernel import TensorType

Index: TypeAlias = Expr | int

FLAT = "qpc.flat"
"""Attribute of functions that have nothing to lower: flat buffers, vectors, and plain loops."""

COPY_BYTES = 64  # LLVM splits a vector that is wider than the target's registers


_FETCH = [T.IntImm("int32", i) for i in (0, 2, 1)]  # to read, to the second-level cache, data


@dataclass(frozen=True)
class Flat:
    """A buffer seen as one row of elements, whatever its shape."""

    buffer: Expr
    dtype: str
    start: Index = 0
    """Where it begins in the buffer; offsets count from here."""

    def part(self, offset: Index) -> Flat:
        """The same row from `offset` on."""
        return replace(self, start=self.start + offset)

    def load(self, offset: Index, lanes: int = 1) -> Expr:
        """`lanes` elements from `offset` on."""
        return self.buffer[_span(self._at(offset), lanes)]

    def load_strided(self, offset: Index, stride: int, lanes: int) -> Expr:
        """`lanes` elements, `stride` apart."""
        at = self._at(offset)
        return self.buffer[T.ramp(at, stride, lanes) if lanes > 1 else at]

    def load_each(self, offsets: Expr) -> Expr:
        """The elements at a vector of offsets."""
        assert isinstance(self.start, int)
        assert self.start == 0
        return self.buffer[offsets]

    def store(self, offset: Index, value: Expr, lanes: int = 1) -> None:
        """Store `lanes` elements from `offset` on."""
        T.buffer_store(self.buffer, value, [_span(self._at(offset), lanes)])

    def store_strided(self, offset: Index, stride: int, value: Expr, lanes: int) -> None:
        """Store `lanes` elements, `stride` apart."""
        at = self._at(offset)
        T.buffer_store(self.buffer, value, [T.ramp(at, stride, lanes) if lanes > 1 else at])

    def address(self, offset: Index) -> Expr:
        """Where in memory an element is."""
        return T.address_of(self.buffer[self._at(offset)])

    def fetch(self, offset: Index) -> None:
        """Say that the element, which may lie beyond the buffer, will soon be read."""
        T.evaluate(T.call_llvm_intrin("void", "llvm.prefetch", self.address(offset), *_FETCH))

    def _at(self, offset: Index) -> Index:
        return offset if isinstance(self.start, int) and self.start == 0 else self.start + offset


def prim_func(name: str, args: Sequence[TensorType], body: Callable[..., None]) -> PrimFunc:
    """A function called `name`; `body` gets one `Flat` per argument and emits statements."""
    with IRBuilder() as ir_builder, T.prim_func(s_tir=True):
        T.func_name(name)
        T.func_attr({"tirx.noalias": True, FLAT: True})
        buffers = [T.arg(f"arg{i}", T.buffer(a.shape, a.dtype)) for i, a in enumerate(args)]
        body(
            *(
                Flat(T.decl_buffer((a.size,), a.dtype, data=buffer.data), a.dtype)
                for a, buffer in zip(args, buffers, strict=True)
            )
        )
    return ir_builder.get()


def local(size: int, dtype: str) -> Flat:
    """A buffer that becomes registers: index it with constants only."""
    buffer = T.alloc_buffer(
        (size,), dtype, scope="local", annotations={"disable_lower_builtin": True}
    )
    return Flat(buffer, dtype)


def scratch(size: int, dtype: str) -> Flat:
    """A temporary buffer in memory."""
    return Flat(T.alloc_buffer((size,), dtype), dtype)


@contextmanager
def loop(extent: int, *, parallel: bool = False) -> Iterator[Index]:
    """Count to `extent`; a single round is no loop, so that its index is a constant."""
    if extent == 1:
        yield 0
    else:
        with T.parallel(extent) if parallel else T.serial(extent) as i:
            yield i


@contextmanager
def loop_between(first: Expr, end: Expr) -> Iterator[Index]:
    """Count from `first` up to but not including `end`, which are known at run time."""
    with T.serial(first, end) as i:
        yield i


@contextmanager
def tasks(count: int, threads: int) -> Iterator[tuple[Index, Index]]:
    """Count to `count`, spread evenly over `threads`; gives the thread's number and the count."""
    if threads == 1 or count == 1:
        with loop(count) as task:
            yield 0, task
    else:
        with (
            T.parallel(threads) as worker,
            T.serial(worker * count // threads, (worker + 1) * count // threads) as task,
        ):
            yield worker, task


@contextmanager
def when(condition: Expr) -> Iterator[None]:
    """Statements to run if `condition` holds."""
    with T.If(condition), T.Then():
        yield


def bind(value: Expr) -> Expr:
    """A variable with this value, computed once; a Python number stays as it is."""
    return value if isinstance(value, int) else T.Bind(value)


def vector(dtype: str, lanes: int) -> str:
    """The name of the type of a vector; one lane is a scalar."""
    return dtype if lanes == 1 else f"{dtype}x{lanes}"


def splat(value: Expr, lanes: int) -> Expr:
    """`value` in every lane."""
    return value if lanes == 1 else T.broadcast(value, lanes)


def integer(value: int, dtype: str = "int32", lanes: int = 1) -> Expr:
    """A constant, in every lane."""
    return splat(T.IntImm(dtype, value), lanes)


def float32(value: float, lanes: int = 1) -> Expr:
    """A constant given by its bits: printing a decimal number could lose some."""
    return splat(T.reinterpret("float32", T.IntImm("int32", float_bits(value))), lanes)


def float64(value: float, lanes: int = 1) -> Expr:
    """A constant given by its bits, too."""
    bits = int(np.float64(value).view(np.int64))
    return splat(T.reinterpret("float64", T.IntImm("int64", bits)), lanes)


def float_bits(value: float) -> int:
    """The bits of a float32 as an int32."""
    return int(np.float32(value).view(np.int32))


def cast(value: Expr, dtype: str, lanes: int) -> Expr:
    """Convert every lane; nothing happens if it has that type."""
    return T.cast(value, vector(dtype, lanes))


def reinterpret(value: Expr, dtype: str, lanes: int) -> Expr:
    """The same bits as another type."""
    return T.reinterpret(vector(dtype, lanes), value)


def wrapped_sum(a: Expr, b: Expr, lanes: int) -> Expr:
    """int32 `a + b` modulo 2**32.

    LLVM takes a 32-bit sum of TIR, signed or unsigned, for one that never wraps around, and may do
    anything if it does. So it is formed in 64 bits, from which LLVM makes the plain instruction.
    """
    return cast(cast(a, "int64", lanes) + cast(b, "int64", lanes), "int32", lanes)


@dataclass(frozen=True)
class Wrapping:
    """int32 values whose sums, differences and products count modulo 2**32; see `wrapped_sum`."""

    value: Expr
    lanes: int

    def __add__(self, other: Wrapping) -> Wrapping:
        return self._cut(self._wide + other._wide)

    def __sub__(self, other: Wrapping) -> Wrapping:
        return self._cut(self._wide - other._wide)

    def __mul__(self, factor: int) -> Wrapping:
        """Times a constant, of which only the value modulo 2**32 counts."""
        signed = (factor + 2**31) % 2**32 - 2**31
        return self._cut(self._wide * integer(signed, "int64", self.lanes))

    def bound(self) -> Wrapping:
        """The same in a variable, computed once."""
        return replace(self, value=bind(self.value))

    @property
    def _wide(self) -> Expr:
        return cast(self.value, "int64", self.lanes)

    def _cut(self, wide: Expr) -> Wrapping:
        return replace(self, value=cast(wide, "int32", self.lanes))


def shuffle(vectors: Sequence[Expr], lanes: Sequence[int]) -> Expr:
    """A vector of the given lanes of `vectors`, which are numbered one after the other."""
    return Shuffle(list(vectors), [T.IntImm("int32", int(lane)) for lane in lanes])


def smaller(a: Index, b: Index) -> Index:
    """The minimum of two indices."""
    return min(a, b) if isinstance(a, int) and isinstance(b, int) else T.min(a, b)


def split(index: Index, *extents: int) -> list[Index]:
    """The coordinates of a flat index into a box of the given extents."""
    parts: list[Index] = []
    for extent in reversed(extents[1:]):
        if extent == 1:
            parts.append(0)
        else:
            parts.append(index % extent)
            index = index // extent
    return [index, *reversed(parts)]


def copy(target: Flat, target_offset: Index, source: Flat, source_offset: Index, size: int) -> None:
    """Copy `size` elements, converted to the type of the target."""
    _in_chunks(
        size,
        lambda at, lanes: target.store(
            target_offset + at,
            cast(source.load(source_offset + at, lanes), target.dtype, lanes),
            lanes,
        ),
    )


def fill(target: Flat, offset: Index, value: Expr, size: int) -> None:
    """Set `size` elements to one value of the type of the target."""
    _in_chunks(size, lambda at, lanes: target.store(offset + at, splat(value, lanes), lanes))


def _in_chunks(size: int, emit: Callable[[Index, int], None]) -> None:
    whole, rest = divmod(size, COPY_BYTES)
    if whole:
        with loop(whole) as i:
            emit(i * COPY_BYTES, COPY_BYTES)
    if rest:
        emit(whole * COPY_BYTES, rest)


def _span(offset: Index, lanes: int) -> Index:
    return offset if lanes == 1 else T.ramp(offset, 1, lanes)


def powers_of_two(count: int, most: int = 0) -> list[int]:
    """Sizes of vectors that together are `count`, the largest first.

    most: none is larger than this power of two, if it is given.
    """
    whole, rest = divmod(count, most) if most else (0, count)
    powers = [1 << bit for bit in reversed(range(rest.bit_length())) if rest >> bit & 1]
    return [most] * whole + powers

"""The instructions of ARM CPUs for vectors of 128 bits, on signed activations.

A vector is one block, so that what interleaving and narrowing do leaves channels in order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from tvm.tirx import Expr
from tvm.tirx.script import builder as T

from qpc.backends.tvm.kernels.emit import (
    Flat,
    bind,
    cast,
    integer,
    reinterpret,
    shuffle,
    splat,
    wrapped_sum,
)
from qpc.backends.tvm.kernels.isa.base import Isa, intrinsic
from qpc.backends.tvm.kernels.isa.interleaving import BLOCK_BYTES, Interleaving

_WORDS = BLOCK_BYTES // 2  # int16 of a vector
_TABLE_BYTES = 4 * BLOCK_BYTES  # that one `tbl` looks into


@dataclass(frozen=True)
class Neon(Interleaving):
    """What all of them have in common."""

    saturates: ClassVar[bool] = True
    rounds_exactly: ClassVar[bool] = True
    narrow_words: ClassVar[str] = "llvm.aarch64.neon.sqxtn"
    multiply: ClassVar[str] = "llvm.aarch64.neon.smull"

    def broadcast(self, x: Expr) -> Expr:
        return splat(T.reinterpret("int32", x), self.lanes)

    def narrow(self, parts: Sequence[Expr]) -> Expr:
        return self.narrow_in_order(parts)

    def narrow_in_order(self, parts: Sequence[Expr]) -> Expr:
        return _first(self._bytes(self._words(parts)), self.lanes * len(parts))

    def rounds_to_bytes(self, count: int) -> bool:
        return True

    def rounded_to_bytes(
        self, values: Sequence[Expr], zero_point: Expr, lo: Expr, hi: Expr, *, in_order: bool
    ) -> Expr:
        integers = [bind(self.nearest(value)) for value in values]
        return self.moved_to_bytes(integers, zero_point, lo, hi, in_order=in_order)

    def moved_to_bytes(
        self, values: Sequence[Expr], zero_point: Expr, lo: Expr, hi: Expr, *, in_order: bool
    ) -> Expr:
        packed = self._clamped(self._words(values), zero_point, lo, hi)
        return _first(packed, self.lanes * len(values))

    def added(self, a: Expr, b: Expr, constants: Sequence[Expr], lanes: int) -> Expr:
        if lanes not in (_WORDS, BLOCK_BYTES):
            return super().added(a, b, constants, lanes)
        *multipliers, offset, shift, zero_point, lo, hi = constants
        wide = [bind(cast(value, "int16", lanes)) for value in (a, b)]
        factors = [splat(T.cast(factor, "int16"), self.lanes) for factor in multipliers]
        sums = []
        for at in range(0, lanes, self.lanes):
            total: Expr = splat(offset, self.lanes)
            for words, factor in zip(wide, factors, strict=True):
                part = shuffle([words], range(at, at + self.lanes))
                total = total + self._product(part, factor)
            sums.append(bind(T.shift_right(total, splat(shift, self.lanes))))
        return _first(self._clamped(self._words(sums), zero_point, lo, hi), lanes)

    def lookup(self, table: Flat, values: Expr, lanes: int) -> Expr:
        # The work is the same for a vector with few values: then values one by one are quicker.
        if not self.lanes < lanes <= BLOCK_BYTES:
            return super().lookup(table, values, lanes)
        values = _filled(values, lanes)
        index = bind(values)
        found = None
        for part in range(256 // _TABLE_BYTES):
            # Counted without sign, the integers from 0 up come before the negative ones.
            first = (part * _TABLE_BYTES + 128) % 256
            places = [first + at for at in range(0, _TABLE_BYTES, BLOCK_BYTES)]
            entries = [table.load(place, BLOCK_BYTES) for place in places]
            found = bind(self._looked_up(found, entries, index))
            if part < 3:
                index = bind(index - integer(_TABLE_BYTES, "int8", BLOCK_BYTES))
        assert found is not None
        return _first(found, lanes)

    def _words(self, parts: Sequence[Expr]) -> list[Expr]:
        """int16 vectors of two int32 vectors each, saturated; an odd one is there twice."""
        pairs = [parts[at : at + 2] for at in range(0, len(parts), 2)]
        return [
            bind(shuffle([self._narrowed(p) for p in (pair[0], pair[-1])], range(8)))
            for pair in pairs
        ]

    def _clamped(self, words: Sequence[Expr], zero_point: Expr, lo: Expr, hi: Expr) -> Expr:
        """int8 of up to two int16 vectors plus the zero point: what saturates is out of bounds."""
        by = splat(T.cast(zero_point, "int16"), _WORDS)
        moved = [bind(intrinsic("llvm.sadd.sat", "int16x8", word, by)) for word in words]
        low, high = (splat(T.cast(bound, "int8"), BLOCK_BYTES) for bound in (lo, hi))
        return T.min(T.max(self._bytes(moved), low), high)

    def _narrowed(self, part: Expr) -> Expr:
        return intrinsic(self.narrow_words, "int16x4", part)

    def _bytes(self, words: Sequence[Expr]) -> Expr:
        """int8 of two int16 vectors, saturated; a single one is there twice."""
        halves = [intrinsic(self.narrow_words, "int8x8", word) for word in (words[0], words[-1])]
        return bind(shuffle(halves, range(BLOCK_BYTES)))

    def nearest(self, value: Expr) -> Expr:
        # What does not fit saturates.
        return intrinsic("llvm.aarch64.neon.fcvtns", "int32x4", value)

    def _product(self, words: Expr, factor: Expr) -> Expr:
        """int32 products of int16."""
        return intrinsic(self.multiply, "int32x4", words, factor)

    def _looked_up(self, found: Expr | None, entries: Sequence[Expr], index: Expr) -> Expr:
        """The entries of 64 at an index below 64; elsewhere 0, or what was found before."""
        name = "llvm.aarch64.neon.tbl4" if found is None else "llvm.aarch64.neon.tbx4"
        before = [] if found is None else [found]
        return intrinsic(name, "int8x16", *before, *entries, index)


@dataclass(frozen=True)
class SignedDots(Neon):
    """`sdot`: four products per lane, summed into int32; activations by element of a vector."""

    depth: int = 4
    steps_per_load: ClassVar[int] = 4

    def dot(self, acc: Expr, x: Expr, w: Expr) -> Expr:
        # LLVM finds the form that takes an element where this operand is last.
        return intrinsic("llvm.aarch64.neon.sdot", "int32x4", acc, w, reinterpret(x, "int8", 16))

    def dot_step(self, acc: Expr, x: Expr, w: Expr, step: int, steps: int) -> Expr:
        word = shuffle([reinterpret(x, "int32", steps)], [step]) if steps > 1 else x
        return self.dot(acc, splat(T.reinterpret("int32", word), self.lanes), w)

    def accumulators_fit(self, pixels: int, vectors: int) -> bool:
        # sums, activations of each pixel, and two vectors of weights
        return pixels * (vectors + 1) + 2 <= self.registers

    def step_time(self, pixels: int, vectors: int) -> float:
        # Few of these CPUs load beside what they compute, and pairs of vectors load at once.
        loads = pixels / self.steps_per_load + vectors / 2
        return max(pixels * vectors + loads, self.sums_in_flight)


@dataclass(frozen=True)
class SignedMatrices(SignedDots):
    """`smmla` where there are two pixels, and `sdot` for all else."""

    @property
    def pairs(self) -> Isa:
        return PairedProducts(
            self.name,
            self.lanes,
            self.registers,
            vectors_per_store=self.vectors_per_store,
            activation=self.activation,
            costs=self.costs,
        )


@dataclass(frozen=True)
class PairedProducts(Neon):
    """`smmla`: the products of two pixels and two output channels, eight of each."""

    depth: int = 8
    steps_per_load: ClassVar[int] = 2
    in_pairs: ClassVar[bool] = True

    def dot(self, acc: Expr, x: Expr, w: Expr) -> Expr:
        return intrinsic("llvm.aarch64.neon.smmla", "int32x4", acc, x, w)

    def accumulators_fit(self, pixels: int, vectors: int) -> bool:
        # sums, activations of each pixel, and three vectors of weights or of what is permuted
        return pixels % 2 == 0 and pixels * (vectors + 1) + 3 <= self.registers

    def step_time(self, pixels: int, vectors: int) -> float:
        # half a load and half a permutation for each pixel; pairs of vectors of weights
        return max(pixels * vectors + pixels + vectors, self.sums_in_flight)


@dataclass(frozen=True)
class ByteProducts(Neon):
    """Eight products of bytes as int16, eight more on top, and their pairs on top of int32 sums.

    A vector is in halves: two of the four products of every lane, then the other two. A lane's
    sums of two products fit an int16 unless both weights are -128.
    """

    depth: int = 4
    steps_per_load: ClassVar[int] = 2
    dot_instructions: int = 3
    any_weights: bool = False
    """Whether weights may be -128."""

    def exact_for(
        self, rows: npt.NDArray[np.int8], greatest: int = 255, deepest: int | None = None
    ) -> tuple[Isa, ...]:
        least = rows.min(initial=0)
        careful = least == -128
        return (replace(self, any_weights=True, dot_instructions=4) if careful else self,)

    def arranged(self, weight: npt.NDArray[np.int8]) -> npt.NDArray[np.int8]:
        *outer, lanes, depth = weight.shape
        halves = weight.reshape(*outer, lanes, 2, depth // 2)
        return np.moveaxis(halves, -2, -3).reshape(weight.shape)

    def broadcast(self, x: Expr) -> Expr:
        halves = bind(reinterpret(x, "int16", 2))
        every = [0] * self.lanes + [1] * self.lanes
        # TVM takes no more lanes out than there are in the vectors.
        return reinterpret(shuffle([halves] * self.lanes, every), "int8", 16)

    def interleaved_channels(self) -> npt.NDArray[np.int64]:
        return np.arange(self.lanes * self.depth).reshape(self.depth, self.lanes)

    @property
    def _widths(self) -> list[int]:
        return [1, BLOCK_BYTES // 2]

    def dot(self, acc: Expr, x: Expr, w: Expr) -> Expr:
        halves = [[shuffle([v], half) for v in (x, w)] for half in (range(8), range(8, 16))]
        return self._summed(acc, halves)

    def dot_step(self, acc: Expr, x: Expr, w: Expr, step: int, steps: int) -> Expr:
        # One look-up in place of two broadcasts, of which LLVM would make more instructions.
        first = step * self.depth
        places = [first + half + i for half in (0, 2) for _ in range(self.lanes) for i in (0, 1)]
        index = shuffle([T.IntImm("int8", place) for place in places], range(BLOCK_BYTES))
        return self.dot(
            acc, intrinsic("llvm.aarch64.neon.tbl1", "int8x16", _filled(x, steps * 4), index), w
        )

    def _summed(self, acc: Expr, halves: Sequence[Sequence[Expr]]) -> Expr:
        """int32 sums plus the products of the halves of vectors."""
        first, second = (intrinsic(self.multiply, "int16x8", *operands) for operands in halves)
        if self.any_weights:
            return self._paired(self._paired(acc, first), second)
        return self._paired(acc, first + second)

    def _paired(self, acc: Expr, words: Expr) -> Expr:
        """int32 sums plus those of neighbouring int16."""
        pairs = intrinsic("llvm.aarch64.neon.saddlp", "int32x4", words)
        return wrapped_sum(acc, pairs, self.lanes)

    def accumulators_fit(self, pixels: int, vectors: int) -> bool:
        # sums, activations of each pixel, and of one in every lane; where to find these by step;
        # two of weights, two of products
        return pixels * (vectors + 1) + 12 + self.steps_per_load <= self.registers

    def step_time(self, pixels: int, vectors: int) -> float:
        loads = pixels / self.steps_per_load + vectors / 2
        beside = (pixels + loads) / self.dot_instructions
        return max(pixels * vectors + beside, self.sums_in_flight)


def _first(value: Expr, lanes: int) -> Expr:
    return value if lanes == BLOCK_BYTES else shuffle([bind(value)], range(lanes))


def _filled(value: Expr, lanes: int) -> Expr:
    """A full vector that begins with these lanes."""
    if lanes == BLOCK_BYTES:
        return value
    copies = -(-BLOCK_BYTES // lanes)
    return shuffle([bind(value)] * copies, range(BLOCK_BYTES))

"""The instructions of x86 CPUs for vectors of 128, 256 and 512 bits.

All of them work on blocks of 16 bytes when they interleave or pack, whatever the width of the
vector: packing undoes what interleaving did to the order of the channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from tvm.tirx import Expr
from tvm.tirx.script import builder as T

from qpc.backends.tvm.kernels.emit import (
    Flat,
    Index,
    bind,
    cast,
    integer,
    reinterpret,
    shuffle,
    splat,
    vector,
    wrapped_sum,
)
from qpc.backends.tvm.kernels.isa.base import Isa, intrinsic
from qpc.backends.tvm.kernels.isa.interleaving import BLOCK_BYTES, Interleaving

# LLVM's names depend on the width of the vector, given here in int32 lanes.
_DOT_PRODUCT = {8: "llvm.x86.avx512.vpdpbusd.256", 16: "llvm.x86.avx512.vpdpbusd.512"}
_WORD_PRODUCT = {8: "llvm.x86.avx512.vpdpwssd.256", 16: "llvm.x86.avx512.vpdpwssd.512"}
_MULTIPLY_ADD = {
    4: "llvm.x86.sse2.pmadd.wd",
    8: "llvm.x86.avx2.pmadd.wd",
    16: "llvm.x86.avx512.pmaddw.d.512",
}
_MULTIPLY_ADD_BYTES = {
    4: "llvm.x86.ssse3.pmadd.ub.sw.128",
    8: "llvm.x86.avx2.pmadd.ub.sw",
    16: "llvm.x86.avx512.pmaddubs.w.512",
}
_SHUFFLE_BYTES = {  # by the size of the vector in bytes
    16: "llvm.x86.ssse3.pshuf.b.128",
    32: "llvm.x86.avx2.pshuf.b",
    64: "llvm.x86.avx512.pshuf.b.512",
}
_PACK_WORDS = {
    4: "llvm.x86.sse2.packssdw.128",
    8: "llvm.x86.avx2.packssdw",
    16: "llvm.x86.avx512.packssdw.512",
}
_NEAREST: dict[int, tuple[Any, ...]] = {  # 16 lanes: also what to take where the mask says no
    4: ("llvm.x86.sse2.cvtps2dq",),
    8: ("llvm.x86.avx.cvt.ps2dq.256",),
    16: (
        "llvm.x86.avx512.mask.cvtps2dq.512",
        lambda: integer(0, "int32", 16),
        lambda: integer(-1, "int16"),
        lambda: integer(4, "int32"),  # round as the control register says
    ),
}
_PACK_BYTES = {
    4: "llvm.x86.sse2.packuswb.128",
    8: "llvm.x86.avx2.packuswb",
    16: "llvm.x86.avx512.packuswb.512",
}


_SSE_LANES = 4
_PIECE = 4  # terms that `pmaddubsw` and `pmaddwd` sum into a lane


@dataclass(frozen=True)
class _X86(Interleaving):
    """What all x86 vectors have in common; a lane of a vector is `depth` elements of 4 bytes."""

    rounds_exactly: ClassVar[bool] = True

    def broadcast(self, x: Expr) -> Expr:
        return splat(T.reinterpret("int32", x), self.lanes)

    def narrow_in_order(self, parts: Sequence[Expr]) -> Expr:
        if len(parts) == 1:
            return super().narrow_in_order(parts)
        return self._in_order(self._packed_bytes(self._words(parts)), len(parts))

    def rounds_to_bytes(self, count: int) -> bool:
        return count > 1

    def rounded_to_bytes(
        self, values: Sequence[Expr], zero_point: Expr, lo: Expr, hi: Expr, *, in_order: bool
    ) -> Expr:
        integers = [bind(self.nearest(value)) for value in values]
        return self.moved_to_bytes(integers, zero_point, lo, hi, in_order=in_order)

    def moved_to_bytes(
        self, values: Sequence[Expr], zero_point: Expr, lo: Expr, hi: Expr, *, in_order: bool
    ) -> Expr:
        # Whatever saturates on the way to a byte is beyond its bounds.
        words = [bind(self._moved_words(word, zero_point)) for word in self._words(values)]
        packed = self._packed_bytes(words)
        size = 4 * self.lanes
        low, high = (splat(T.cast(bound, "uint8"), size) for bound in (lo, hi))
        packed = T.min(T.max(packed, low), high)
        if in_order:
            return self._in_order(bind(packed), len(values))
        return packed if len(values) == 4 else shuffle([packed], _first_words(self.lanes))

    def times(self, value: Expr, factor: Expr) -> Expr:
        # The high words of the values are zero, so that it does not matter what meets them.
        words = reinterpret(cast(value, "int32", self.lanes), "int16", 2 * self.lanes)
        return self._weighted(words, reinterpret(factor, "int16", 2 * self.lanes))

    def added(self, a: Expr, b: Expr, constants: Sequence[Expr], lanes: int) -> Expr:
        size = 4 * self.lanes
        # Vectors of odd lengths, widened and cut several times over, take LLVM minutes.
        if lanes not in (self.lanes, size // 2, size):
            return super().added(a, b, constants, lanes)
        if lanes == self.lanes:
            return self._added_lanes(a, b, constants)
        if lanes < size:
            return self._added_words(a, b, constants)
        return self._added(a, b, constants)

    def _added_lanes(self, a: Expr, b: Expr, constants: Sequence[Expr]) -> Expr:
        """`added` of as many values as there are lanes, which stay in one vector of int32."""
        _, _, offset, shift, zero_point, lo, hi = (splat(c, self.lanes) for c in constants)
        in_turn = [source + lane for lane in range(self.lanes) for source in (0, self.lanes)]
        pairs = cast(shuffle([a, b], in_turn), "int16", 2 * self.lanes)
        product = self._weighted(pairs, self._factors(constants))
        total = T.shift_right(product + offset, shift) + zero_point
        return cast(T.min(T.max(total, lo), hi), "uint8", self.lanes)

    def _added_words(self, a: Expr, b: Expr, constants: Sequence[Expr]) -> Expr:
        """`added` of as many values as fill a vector when they are int16."""
        _, _, offset, shift, zero_point, lo, hi = constants
        size = 2 * self.lanes
        factors = self._factors(constants)
        wide = [bind(cast(v, "int16", size)) for v in (a, b)]
        sums = []
        for lanes in _interleaved(size, BLOCK_BYTES // 2):
            total = self._weighted(shuffle(wide, lanes), factors) + splat(offset, self.lanes)
            sums.append(bind(T.shift_right(total, splat(shift, self.lanes))))
        moved = self._moved_words(self._words(sums)[0], zero_point)
        low, high = (splat(T.cast(bound, "int16"), size) for bound in (lo, hi))
        return cast(T.min(T.max(moved, low), high), "uint8", size)

    def _factors(self, constants: Sequence[Expr]) -> Expr:
        """Both multipliers of `added`, of 16 bits, in turn."""
        a_multiplier, b_multiplier, *_ = constants
        both = T.shift_left(b_multiplier, T.int32(16)) | (a_multiplier & T.int32(0xFFFF))
        return bind(reinterpret(splat(both, self.lanes), "int16", 2 * self.lanes))

    def _weighted(self, pairs: Expr, factors: Expr) -> Expr:
        """int32 sums of neighbouring products of int16."""
        return intrinsic(_MULTIPLY_ADD[self.lanes], vector("int32", self.lanes), pairs, factors)

    def _added(self, a: Expr, b: Expr, constants: Sequence[Expr]) -> Expr:
        """`added` of full vectors: both factors, of 16 bits, in one multiplication."""
        _, _, offset, shift, zero_point, lo, hi = constants
        size, words = 4 * self.lanes, 2 * self.lanes
        factors = self._factors(constants)
        pairs = [bind(shuffle([a, b], lanes)) for lanes in _interleaved(size, BLOCK_BYTES)]
        zero = bind(integer(0, "uint8", size))
        sums = []
        for pair in pairs:  # bytes of a and b in turn, widened to words in the same order
            for lanes in _interleaved(size, BLOCK_BYTES):
                wide = reinterpret(shuffle([pair, zero], lanes), "int16", words)
                total = self._weighted(wide, factors) + splat(offset, self.lanes)
                sums.append(bind(T.shift_right(total, splat(shift, self.lanes))))
        moved = [bind(self._moved_words(w, zero_point)) for w in self._words(sums)]
        packed = self._packed_bytes(moved)
        low, high = (splat(T.cast(bound, "uint8"), size) for bound in (lo, hi))
        return T.min(T.max(packed, low), high)

    def _words(self, parts: Sequence[Expr]) -> list[Expr]:
        """int16 vectors of two int32 vectors each, saturated; an odd one is there twice."""
        pairs = [parts[at : at + 2] for at in range(0, len(parts), 2)]
        return [bind(self._packed_words(pair[0], pair[-1])) for pair in pairs]

    def _moved_words(self, words: Expr, by: Expr) -> Expr:
        """int16 vector plus a scalar, saturated."""
        size = 2 * self.lanes
        moved = splat(T.cast(by, "int16"), size)
        return intrinsic("llvm.sadd.sat", vector("int16", size), words, moved)

    def nearest(self, value: Expr) -> Expr:
        # As the CPU rounds by default.
        name, *rest = _NEAREST[self.lanes]
        return intrinsic(name, vector("int32", self.lanes), value, *(f() for f in rest))

    def _in_order(self, packed: Expr, count: int) -> Expr:
        """The first `count` int32 vectors' lanes, one vector after the other, of packed bytes."""
        # Lane `j` of part `i` is now in block `j // 4`, after the lanes of the parts before it.
        lanes = [
            (lane // 4) * BLOCK_BYTES + i * 4 + lane % 4
            for i in range(count)
            for lane in range(self.lanes)
        ]
        return packed if lanes == list(range(4 * self.lanes)) else shuffle([packed], lanes)

    def lookup(self, table: Flat, values: Expr, lanes: int) -> Expr:
        sizes = [size for size in _SHUFFLE_BYTES if lanes <= size <= 4 * self.lanes]
        # The work is the same for a vector with few values: then values one by one are quicker.
        if not sizes or 3 * lanes < 2 * sizes[0]:
            return super().lookup(table, values, lanes)
        size = sizes[0]
        found = _lookup_bytes(table, self._indices(values, lanes, size), size)
        found = reinterpret(found, "uint8", size)
        return found if lanes == size else shuffle([found], range(lanes))

    def _indices(self, values: Expr, lanes: int, size: int) -> Expr:
        """Activations as int8 that fill a vector."""
        if lanes < size:
            # Not filled with the same again: LLVM never ended where depthwise sums came before.
            zeros = integer(0, self.activation, size - lanes)
            values = shuffle([bind(values), zeros], range(size))
        return bind(reinterpret(values, "int8", size))

    def _packed_bytes(self, words: Sequence[Expr]) -> Expr:
        """uint8 of two int16 vectors, saturated; a single one is there twice."""
        size = 4 * self.lanes
        packed = intrinsic(_PACK_BYTES[self.lanes], vector("int8", size), words[0], words[-1])
        return reinterpret(packed, "uint8", size)

    def _packed_words(self, first: Expr, second: Expr) -> Expr:
        """int16 of two int32 vectors."""
        return intrinsic(_PACK_WORDS[self.lanes], vector("int16", 2 * self.lanes), first, second)


@dataclass(frozen=True)
class _Bytes(_X86):
    """A lane is four bytes."""

    depth: int = 4

    def narrow(self, parts: Sequence[Expr]) -> Expr:
        return self._packed_bytes(self._words(parts))


@dataclass(frozen=True)
class DotProducts(_Bytes):
    """`vpdpbusd`: four products per lane, summed into int32 without saturation."""

    permute_bytes: str | None = None

    @property
    def words(self) -> Isa:
        return WordProducts(self.name, self.lanes, self.registers, costs=self.costs)

    def dot(self, acc: Expr, x: Expr, w: Expr) -> Expr:
        # LLVM's operand types are int8 for both, although the instruction reads `x` as uint8.
        return intrinsic(
            _DOT_PRODUCT[self.lanes],
            vector("int32", self.lanes),
            acc,
            reinterpret(x, "int8", self.lanes * self.depth),
            w,
        )

    def lookup(self, table: Flat, values: Expr, lanes: int) -> Expr:
        size = 4 * self.lanes
        if self.permute_bytes is None or lanes > size:
            return super().lookup(table, values, lanes)
        index = self._indices(values, lanes, size)
        quarters = [reinterpret(table.load(at, size), "int8", size) for at in range(0, 256, size)]
        low, high = (
            intrinsic(self.permute_bytes, vector("int8", size), first, index, second)
            for first, second in (quarters[:2], quarters[2:])
        )
        found = T.Select(index < integer(0, "int8", size), high, low)
        found = reinterpret(found, "uint8", size)
        return found if lanes == size else shuffle([found], range(lanes))


@dataclass(frozen=True)
class MultiplyAdd(_X86):
    """`pmaddwd`: two products of int16 per lane, exact, and one addition to the sum.

    A product of a uint8 and an int8 times two fits an int32 with room to spare.
    """

    depth: int = 2
    dot_instructions: int = 2
    sums_in_flight: int = 4  # only the addition, of one cycle, waits for the one before
    operand: str = "int16"

    @property
    def words(self) -> Isa:
        return self

    def exact_for(
        self, rows: npt.NDArray[np.int8], greatest: int = 255, deepest: int | None = None
    ) -> tuple[Isa, ...]:
        # Of four pieces the weights that several pixels share have no room in registers. SSE copies
        # one operand of each product: two pieces take as long there as twice one.
        depths = (2 * _PIECE, _PIECE) if self.lanes > _SSE_LANES else (_PIECE,)
        return *(
            self._pairs(depth)
            for depth in depths
            if (deepest is None or depth <= deepest) and BytePairs.is_exact(rows, greatest, depth)
        ), self

    def _pairs(self, depth: int) -> BytePairs:
        pieces = depth // _PIECE
        dot_instructions = 2 * pieces + 1
        return BytePairs(
            self.name,
            self.lanes,
            self.registers - 1,  # one more holds the ones
            depth,
            dot_instructions=dot_instructions,
            sums_in_flight=self.sums_in_flight,
            broadcast_cost=self.broadcast_cost,
            vectors_per_store=self.vectors_per_store,
            costs=self.costs.in_dots_of(dot_instructions, self.dot_instructions),
        )

    def dot(self, acc: Expr, x: Expr, w: Expr) -> Expr:
        words = reinterpret(x, "int16", self.lanes * self.depth)
        sums = intrinsic(_MULTIPLY_ADD[self.lanes], vector("int32", self.lanes), words, w)
        return wrapped_sum(acc, sums, self.lanes)

    def narrow(self, parts: Sequence[Expr]) -> Expr:
        return shuffle([self._packed_bytes(self._words(parts))], _first_words(self.lanes))


@dataclass(frozen=True)
class WordProducts(_X86):
    """`vpdpwssd`: two products of int16 per lane, summed into int32 without saturation."""

    depth: int = 2
    operand: str = "int16"

    def dot(self, acc: Expr, x: Expr, w: Expr) -> Expr:
        words = reinterpret(x, "int16", self.lanes * self.depth)
        return intrinsic(_WORD_PRODUCT[self.lanes], vector("int32", self.lanes), acc, words, w)


@dataclass(frozen=True)
class BytePairs(_Bytes):
    """`pmaddubsw`: pairs of products summed into int16; then `pmaddwd` sums pairs of those.

    `pmaddubsw` saturates, so this is for weights whose pairs cannot get there, see `is_exact`.
    Where they are so small that the sums of two pairs fit as well, the terms of a `dot` are two
    pieces of four, whose sums of int16 are added before they are widened.
    """

    dot_instructions: int = 3

    @staticmethod
    def is_exact(rows: npt.NDArray[np.int8], greatest: int, depth: int = 4) -> bool:
        """Whether no sum of int16 can leave its range; arguments as `Isa.exact_for`.

        Activations are not negative. So a sum is the most where they are greatest at positive
        weights and 0 at the others, and the least the other way round.
        """
        missing = -rows.shape[-1] % depth
        if missing:
            rows = np.pad(rows, [(0, 0)] * (rows.ndim - 1) + [(0, missing)])
        pairs = rows.reshape(*rows.shape[:-1], -1, depth // _PIECE, 2, 2).astype(np.int32)
        most = np.maximum(pairs, 0).sum((-1, -3))  # both of a pair, in all pieces
        least = np.minimum(pairs, 0).sum((-1, -3))
        fits = np.iinfo(np.int16)
        return bool(
            greatest * most.max(initial=0) <= fits.max
            and greatest * least.min(initial=0) >= fits.min
        )

    @property
    def _pieces(self) -> int:
        return self.depth // _PIECE

    def arranged(self, weight: npt.NDArray[np.int8]) -> npt.NDArray[np.int8]:
        pieces = weight.reshape(*weight.shape[:-1], self._pieces, _PIECE)
        return pieces.swapaxes(-3, -2).reshape(weight.shape)

    def broadcast_from(self, data: Flat, at: Index) -> Expr:
        # Loaded piece by piece: of more bytes at once LLVM makes moves between registers.
        places = [at + piece * _PIECE for piece in range(self._pieces)]
        splats = [self.broadcast(data.load(place, _PIECE)) for place in places]
        return shuffle(splats, range(self.lanes * self._pieces)) if splats[1:] else splats[0]

    def dot(self, acc: Expr, x: Expr, w: Expr) -> Expr:
        pairs = self._sums_of_pairs(x, w, 0)
        for piece in range(1, self._pieces):
            pairs = pairs + self._sums_of_pairs(x, w, piece)
        ones = integer(1, "int16", 2 * self.lanes)
        sums = intrinsic(_MULTIPLY_ADD[self.lanes], vector("int32", self.lanes), pairs, ones)
        return wrapped_sum(acc, sums, self.lanes)

    def _sums_of_pairs(self, x: Expr, w: Expr, piece: int) -> Expr:
        size = self.lanes * _PIECE
        if self._pieces > 1:
            x = reinterpret(x, "int32", self.lanes * self._pieces)
            x = shuffle([x], range(piece * self.lanes, (piece + 1) * self.lanes))
            w = shuffle([w], range(piece * size, (piece + 1) * size))
        words = vector("int16", size // 2)
        return intrinsic(_MULTIPLY_ADD_BYTES[self.lanes], words, reinterpret(x, "int8", size), w)

    def accumulators_fit(self, pixels: int, vectors: int) -> bool:
        # A row of weights is used pixel after pixel, so that all of its pieces are kept.
        beside = self._pieces if self._pieces == 1 else self._pieces + 1
        return (pixels + self._pieces) * vectors + beside <= self.registers

    def step_time(self, pixels: int, vectors: int) -> float:
        # In dots, of which the multiplications take longest: one for each piece and one to widen.
        loads = 2 * self._pieces / (self._pieces + 1) * (pixels * self.broadcast_cost + vectors)
        return float(max(pixels * vectors, loads, self.sums_in_flight))


def _interleaved(size: int, block: int) -> list[list[int]]:
    """Elements that interleave two vectors within blocks: their low halves, their high halves."""
    return [
        [
            source + start + at
            for start in range(0, size, block)
            for at in range(half, half + block // 2)
            for source in (0, size)
        ]
        for half in (0, block // 2)
    ]


def _first_words(lanes: int) -> list[int]:
    """Where bytes are that were packed of one int16 vector and its copy."""
    return [at for at in range(4 * lanes) if at % BLOCK_BYTES < BLOCK_BYTES // 2]


def _lookup_bytes(table: Flat, index: Expr, size: int) -> Expr:
    """`table[index]` of `size` int8, which count as unsigned.

    The low half of an index picks from each of the 16 parts of the table; the high half picks a
    part, bit by bit, each moved to the sign in turn.
    """
    low = bind(index & integer(15, "int8", size))
    signs = [index]
    while len(signs) < 4:
        signs.append(bind(signs[-1] + signs[-1]))

    def pick(first: int, parts: int) -> Expr:
        if parts == 1:
            part = reinterpret(table.load(first * 16, 16), "int8", 16)
            part = part if size == 16 else shuffle([part] * (size // 16), range(size))
            return intrinsic(_SHUFFLE_BYTES[size], vector("int8", size), part, low)
        half = parts // 2
        sign = signs[4 - half.bit_length()]
        halves = bind(pick(first + half, half)), bind(pick(first, half))
        return T.Select(sign < integer(0, "int8", size), *halves)

    return pick(0, 16)

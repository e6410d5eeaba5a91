"""The few instructions that integer kernels are made of, and how data is laid out for them.

A micro-kernel keeps int32 accumulators, one vector per (pixel, group of `lanes` output channels).
One `dot` adds, in every lane, `depth` products of a uint8 and an int8. Other CPUs are further
instances of `Isa` or of a subclass, and an entry in `_ISAS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from math import ceil
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from tvm.target.codegen import llvm_lookup_intrinsic_id
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
    vector,
)
from qpc.errors import UnsupportedTargetError
from qpc.target import Target

_Vector = TypeVar("_Vector")


@dataclass(frozen=True)
class Isa:
    """Plain int32 arithmetic, which LLVM turns into the vector instructions of any target.

    `registers` is how many accumulators and weight vectors may be alive at once.
    """

    name: str
    lanes: int
    registers: int
    depth: int = 1

    def dot(self, acc: Expr, x: Expr, w: Expr) -> Expr:
        """`acc[i] + sum(x[i, d] * w[i, d] for d in range(depth))` for every lane `i`.

        `x` is a uint8 and `w` an int8 vector of `lanes * depth` elements.
        """
        return acc + cast(x, "int32", self.lanes) * cast(w, "int32", self.lanes)

    def broadcast(self, x: Expr) -> Expr:
        """`depth` uint8 elements, repeated in every lane."""
        return splat(x, self.lanes)

    def interleave(self, rows: Sequence[Expr]) -> list[Expr]:
        """Transpose `depth` rows of `lanes * depth` channels into vectors for `dot`.

        Lane `i` of vector `v` holds channel `interleaved_channels()[v, i]` of every row.
        """
        return list(rows)

    @property
    def interleave_cost(self) -> int:
        """Number of instructions of `interleave`."""
        return 0

    def interleaved_channels(self) -> npt.NDArray[np.int64]:
        """See `interleave`: the channel of each (vector, lane)."""
        return np.arange(self.lanes)[None]

    def narrow(self, parts: Sequence[Expr]) -> Expr:
        """int32 vectors in the order of `interleave`, as one uint8 vector in channel order.

        Every element is in 0..255.
        """
        return cast(parts[0], "uint8", self.lanes)

    def lookup(self, table: Flat, values: Expr, lanes: int) -> Expr:
        """`table[v]` for every uint8 `v` of a vector; the table has 256 entries."""
        return table.load_each(cast(values, "int32", lanes))


@dataclass(frozen=True)
class VectorNeuralNetworkInstructions(Isa):
    """x86 `vpdpbusd`: four products per lane, summed into int32 without saturation.

    The intrinsics are named by the caller because their names depend on the width of the vector.
    """

    depth: int = 4
    dot_product: str = ""
    pack_words: str = ""
    pack_bytes: str = ""
    permute_bytes: str | None = None

    def dot(self, acc: Expr, x: Expr, w: Expr) -> Expr:
        # LLVM's operand types are int8 for both, although the instruction reads `x` as uint8.
        return intrinsic(
            self.dot_product,
            vector("int32", self.lanes),
            acc,
            reinterpret(x, "int8", self.lanes * self.depth),
            w,
        )

    def broadcast(self, x: Expr) -> Expr:
        return splat(T.reinterpret("int32", x), self.lanes)

    def interleave(self, rows: Sequence[Expr]) -> list[Expr]:
        return self._interleave(rows, lambda pair, lanes: bind(shuffle(pair, lanes)))

    @property
    def interleave_cost(self) -> int:
        return 8

    def interleaved_channels(self) -> npt.NDArray[np.int64]:
        channels = np.arange(self.lanes * self.depth)
        vectors = self._interleave(
            [channels] * self.depth, lambda pair, lanes: np.concatenate(pair)[lanes]
        )
        return np.stack(vectors)[:, :: self.depth]

    def narrow(self, parts: Sequence[Expr]) -> Expr:
        # Packing works on 16-byte blocks, as unpacking does, and so restores the order of the
        # channels.
        words = [
            intrinsic(self.pack_words, vector("int16", 2 * self.lanes), *parts[at : at + 2])
            for at in (0, 2)
        ]
        size = 4 * self.lanes
        return reinterpret(intrinsic(self.pack_bytes, vector("int8", size), *words), "uint8", size)

    def lookup(self, table: Flat, values: Expr, lanes: int) -> Expr:
        size = 4 * self.lanes
        if self.permute_bytes is None or lanes > size:
            return super().lookup(table, values, lanes)
        index = values if lanes == size else shuffle([values] * ceil(size / lanes), range(size))
        index = bind(reinterpret(index, "int8", size))
        quarters = [reinterpret(table.load(at, size), "int8", size) for at in range(0, 256, size)]
        low, high = (
            intrinsic(self.permute_bytes, vector("int8", size), first, index, second)
            for first, second in (quarters[:2], quarters[2:])
        )
        found = T.Select(index < integer(0, "int8", size), high, low)
        found = reinterpret(found, "uint8", size)
        return found if lanes == size else shuffle([found], range(lanes))

    def _interleave(
        self, rows: Sequence[_Vector], take: Callable[[list[_Vector], list[int]], _Vector]
    ) -> list[_Vector]:
        """Four rows into four vectors; `take` gathers lanes of two concatenated vectors."""
        first, second = (
            [take(list(pair), lanes) for lanes in self._unpack(1)] for pair in (rows[:2], rows[2:])
        )
        return [
            take([a, b], lanes)
            for a, b in zip(first, second, strict=True)
            for lanes in self._unpack(2)
        ]

    def _unpack(self, width: int) -> list[list[int]]:
        """Lanes that interleave `width` bytes of two vectors each, within blocks of 16 bytes."""
        size = self.lanes * 4
        halves = []
        for half in (0, 8):
            starts = range(half, half + 8, width)
            halves.append(
                list(
                    chain.from_iterable(
                        range(source + block + start, source + block + start + width)
                        for block in range(0, size, 16)
                        for start in starts
                        for source in (0, size)
                    )
                )
            )
        return halves


def intrinsic(name: str, dtype: str, *args: Expr) -> Expr:
    """A call of an LLVM intrinsic without side effects."""
    number = llvm_lookup_intrinsic_id(name)
    if number == 0:  # LLVM says 0 for a name that it does not know, and would crash on it later
        raise UnsupportedTargetError(f"this LLVM has no intrinsic {name!r}")
    return T.call_llvm_pure_intrin(dtype, T.IntImm("int32", number), *args)


def isa_for(target: Target) -> Isa:
    """The instructions to use for a target."""
    return _ISAS[target.isa](target)


def _generic(target: Target) -> Isa:
    return Isa("generic", target.vector_lanes, registers=12)


def _avx512_vnni(target: Target) -> Isa:
    has_vbmi = "avx512vbmi" in target.features
    return VectorNeuralNetworkInstructions(
        target.isa,
        lanes=16,
        registers=31,
        dot_product="llvm.x86.avx512.vpdpbusd.512",
        pack_words="llvm.x86.avx512.packssdw.512",
        pack_bytes="llvm.x86.avx512.packuswb.512",
        permute_bytes="llvm.x86.avx512.vpermi2var.qi.512" if has_vbmi else None,
    )


_ISAS: dict[str, Callable[[Target], Isa]] = {
    "generic": _generic,
    "avx512-vnni": _avx512_vnni,
}

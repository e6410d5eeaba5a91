"""The few instructions that integer kernels are made of, and how data is laid out for them.

A micro-kernel keeps int32 accumulators, one vector per (pixel, group of `lanes` output channels).
One `dot` adds, in every lane, `depth` products of an activation and a weight. `Isa` itself is plain
arithmetic that works everywhere; subclasses know what a family of CPUs does better.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import numpy.typing as npt
from tvm.target.codegen import llvm_lookup_intrinsic_id
from tvm.tirx import Expr
from tvm.tirx.script import builder as T

from qpc.backends.tvm.kernels.emit import (
    Flat,
    Index,
    cast,
    float32,
    integer,
    reinterpret,
    shuffle,
    splat,
    wrapped_sum,
)
from qpc.backends.tvm.kernels.isa.matrices import MatrixTiles
from qpc.backends.tvm.kernels.kernel import least
from qpc.errors import UnsupportedTargetError
from qpc.targets.costs import Costs


@dataclass(frozen=True)
class Isa:
    """Plain int32 arithmetic, which LLVM turns into the vector instructions of any target.

    `registers` is how many accumulators, weight vectors and broadcast activations may be alive at
    once, `sums_in_flight` how many independent sums keep the CPU busy, `broadcast_cost` how many
    loads a broadcast is worth, `dot_instructions` how many a `dot` is made of, and
    `vectors_per_store` how many vectors of results are best narrowed to bytes together, up to four.

    Activations are of type `activation`, uint8 or int8, and weights int8 in tensors. `operand` is
    the type in which `dot` takes them: if it is wider, kernels widen activations while they copy
    them to scratch memory, once for all output channels, and weights are stored wide.
    """

    name: str
    lanes: int
    registers: int
    depth: int = 1
    sums_in_flight: int = 8
    broadcast_cost: float = 1
    dot_instructions: int = 1
    vectors_per_store: int = 1
    operand: str | None = None
    activation: str = "uint8"
    costs: Costs = field(default_factory=Costs)
    tiles: MatrixTiles | None = None
    """Registers of matrices, if there are any; `lanes` are one or more times theirs."""
    steps_per_load: ClassVar[int] = 1
    """Of how many consecutive `dot`s the activations are loaded together; see `dot_step`."""
    in_pairs: ClassVar[bool] = False
    """Whether a `dot` is of two pixels and half of the lanes' channels; see `PairedSums`."""
    unpacks: ClassVar[bool] = True
    """Whether two weights that share a byte can be taken apart, a vector of them at a time."""
    saturates: ClassVar[bool] = False
    """Whether `rounded_to_bytes` takes floats that no int32 is near, as out of bounds."""

    stores_parts: ClassVar[bool] = True
    """Whether some lanes of a vector can be stored without the others."""
    cuts_to_bytes: ClassVar[bool] = False
    """Whether `cut_to_bytes` is there."""

    rounds_exactly: ClassVar[bool] = False
    """Whether `nearest` takes all floats that are near an int32."""

    def __post_init__(self) -> None:
        assert self.tiles is None or self.lanes % self.tiles.sizes.lanes == 0

    @property
    def x_type(self) -> str:
        """Element type of the activations that `dot` takes."""
        return self.operand or self.activation

    @property
    def x_bytes(self) -> int:
        """Size of an element of `x_type`."""
        return np.dtype(self.x_type).itemsize

    @property
    def w_type(self) -> str:
        """Element type of the weights that `dot` takes."""
        return self.operand or "int8"

    @property
    def wide_lanes(self) -> int:
        """Elements that are computed together, one by one: bytes that fill a vector."""
        return 1 if self.lanes == 1 else self.lanes * 4

    @property
    def by_rows(self) -> Isa:
        """The instructions for sums over rows of one channel, which do not lie side by side."""
        return self

    @property
    def joining(self) -> Isa:
        """The instructions for layers that add to their sums before these are activations."""
        return self

    @property
    def words(self) -> Isa | None:
        """The instructions for operands of int16 whose sums wrap around, if there are fast ones.

        They have as many lanes and registers.
        """
        return None

    @property
    def pairs(self) -> Isa | None:
        """The instructions for two pixels at a time, if there are any; they have as many lanes."""
        return None

    def exact_for(
        self, rows: npt.NDArray[np.int8], greatest: int = 255, deepest: int | None = None
    ) -> tuple[Isa, ...]:
        """The instructions that are exact for these weights, one or more; all have as many lanes.

        rows: weights[..., n] in the order in which sums take them: whatever `depth` is, a `dot`
        multiplies neighbours, counted from the beginning of a row. greatest: of unsigned
        activations. deepest: the greatest `depth` that the kernel can do with, any by default.
        """
        return (self,)

    def arranged(self, weight: npt.NDArray[np.int8]) -> npt.NDArray[np.int8]:
        """weight[..., lane, depth] as `dot` takes vectors, in an array of the same shape."""
        return weight

    def dot(self, acc: Expr, x: Expr, w: Expr) -> Expr:
        """`acc[i] + sum(x[i, d] * w[i, d] for d in range(depth))` for every lane `i`.

        `x` is an `x_type` and `w` a `w_type` vector of `lanes * depth` elements, in the order of
        `arranged`. The sum may wrap
        around: on the way to a result that fits, and in minimal filtering.
        """
        product = cast(x, "int32", self.lanes) * cast(w, "int32", self.lanes)
        return wrapped_sum(acc, product, self.lanes)

    def dot_step(self, acc: Expr, x: Expr, w: Expr, step: int, steps: int) -> Expr:
        """`dot` with the activations of one of the `steps` that were loaded together, in all lanes.

        `x` is a vector of `steps * depth` activations. Only if `steps_per_load` is more than one.
        """
        raise NotImplementedError

    def accumulators_fit(self, pixels: int, vectors: int) -> bool:
        """Whether the sums of a tile have room in registers, with what is multiplied beside them.

        That is one row of weights, and the broadcast pixel.
        """
        return (pixels + 1) * vectors + 1 <= self.registers

    def step_time(self, pixels: int, vectors: int) -> float:
        """Time of a step of a tile in dots: what takes longest of dots, loads and waiting."""
        loads = pixels * self.broadcast_cost + vectors
        return float(max(pixels * vectors, loads, self.sums_in_flight))

    def broadcast(self, x: Expr) -> Expr:
        """`depth` elements of `x_type`, repeated in every lane."""
        return splat(x, self.lanes)

    def broadcast_from(self, data: Flat, at: Index) -> Expr:
        """`broadcast` of the elements from a place on."""
        return self.broadcast(data.load(at, self.depth))

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
        """int32 vectors in the order of `interleave`, as activations in channel order.

        Every element fits the type of activations.
        """
        return cast(parts[0], self.activation, self.lanes)

    def narrow_in_order(self, parts: Sequence[Expr]) -> Expr:
        """One to four int32 vectors, one after the other, as activations.

        Every element fits the type of activations.
        """
        narrow = [cast(part, self.activation, self.lanes) for part in parts]
        size = self.lanes * len(parts)
        return narrow[0] if len(parts) == 1 else shuffle(narrow, range(size))

    def requantized(
        self, accs: Sequence[Expr], multipliers: Sequence[Expr], bounds: Sequence[Expr]
    ) -> Expr | None:
        """`clamp(rne(f32(acc) * multiplier) + zero_point, lo, hi)` of int32 vectors.

        bounds: zero point, lo and hi. The results are activations, in the order of the vectors.
        None if there is nothing better than to multiply, and then to round.
        """
        return None

    def cut_to_bytes(
        self, accs: Sequence[Expr], multipliers: Sequence[Expr], zero_point: Expr
    ) -> Expr:
        """`requantized` where the bounds are the least and the greatest activation."""
        raise NotImplementedError

    def rounds_to_bytes(self, count: int) -> bool:
        """Whether `rounded_to_bytes` is there, and worth while, for `count` vectors."""
        return False

    def rounded_to_bytes(
        self, values: Sequence[Expr], zero_point: Expr, lo: Expr, hi: Expr, *, in_order: bool
    ) -> Expr:
        """`clamp(rne(value) + zero_point, lo, hi)` of float32 vectors, as activations.

        The values fit an int32, unless `saturates` says that they need not. They are one to four
        vectors in order, or `depth` vectors in the order of `interleave`.
        """
        raise NotImplementedError

    def nearest(self, value: Expr) -> Expr:
        """float32 vector rounded to int32, half to even; of magnitudes up to `JOINED_BOUND`.

        Where `rounds_exactly`, larger ones too, as long as they fit an int32.
        """
        shifted = value + float32(1.5 * 2**23, self.lanes)
        return reinterpret(shifted, "int32", self.lanes) - integer(0x4B400000, lanes=self.lanes)

    def times(self, value: Expr, factor: Expr) -> Expr:
        """int32 products of activations and of a factor of 16 bits, in every lane."""
        return cast(value, "int32", self.lanes) * factor

    def moved_to_bytes(
        self, values: Sequence[Expr], zero_point: Expr, lo: Expr, hi: Expr, *, in_order: bool
    ) -> Expr:
        """`clamp(value + zero_point, lo, hi)` of int32 vectors, as activations.

        Only if `rounds_to_bytes`; orders as there.
        """
        raise NotImplementedError

    def added(self, a: Expr, b: Expr, constants: Sequence[Expr], lanes: int) -> Expr:
        """Sum of two vectors of activations, in fixed point; `constants` as in `add_constants`."""
        a_multiplier, b_multiplier, offset, shift, zero_point, lo, hi = (
            splat(constant, lanes) for constant in constants
        )
        a, b = cast(a, "int32", lanes), cast(b, "int32", lanes)
        total = T.shift_right(a * a_multiplier + b * b_multiplier + offset, shift) + zero_point
        return cast(T.min(T.max(total, lo), hi), self.activation, lanes)

    def clamped(self, value: Expr, lo: Expr, hi: Expr, lanes: int) -> Expr:
        """Activations within int32 `lo..hi`."""
        low, high = (splat(T.cast(bound, self.activation), lanes) for bound in (lo, hi))
        return T.min(T.max(value, low), high)

    def lookup(self, table: Flat, values: Expr, lanes: int) -> Expr:
        """The entry of each activation of a vector; the first of 256 is that of the least one."""
        index, first = cast(values, "int32", lanes), least(self.activation)
        return table.load_each(index - integer(first, lanes=lanes) if first else index)


def intrinsic(name: str, dtype: str, *args: Expr) -> Expr:
    """A call of an LLVM intrinsic without side effects."""
    number = llvm_lookup_intrinsic_id(name)
    if number == 0:  # LLVM says 0 for a name that it does not know, and would crash on it later
        raise UnsupportedTargetError(f"this LLVM has no intrinsic {name!r}")
    return T.call_llvm_pure_intrin(dtype, T.IntImm("int32", number), *args)

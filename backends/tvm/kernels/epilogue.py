"""What happens to an accumulator: requantization to 8 bits, then optional stages, then the store.

Or it becomes the float32 value that it stands for, which is stored as it is.

The code of a kernel depends on the kinds of its stages only; their numbers are arguments. So layers
of equal shape share code, and compile once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TypeAlias

import numpy as np
from tvm.tirx import Expr
from tvm.tirx.script import builder as T

from qpc.backends.tvm.kernels.conv.sums import Join, joined
from qpc.backends.tvm.kernels.emit import (
    Flat,
    Index,
    bind,
    cast,
    float_bits,
    reinterpret,
    splat,
)
from qpc.backends.tvm.kernels.isa.base import Isa
from qpc.backends.tvm.kernels.kernel import Array, TensorType

ROUNDING = 0x4B400000  # bits of 1.5 * 2**23: adding it to a small float rounds it, half to even


@dataclass(frozen=True)
class Requantize:
    """int32 to an activation: `clamp(rne(f32(acc) * multiplier) + output_zero_point, lo, hi)`.

    `multiplier` is rounded to float32.
    """

    input_zero_point: int
    multiplier: float
    output_zero_point: int
    lo: int = 0
    hi: int = 255


@dataclass(frozen=True)
class Reals:
    """int32 to float32: `clamp(f32(acc) * multiplier, least, greatest)`, and no stages."""

    least: float | None = None
    greatest: float | None = None

    @property
    def bits(self) -> tuple[int, int]:
        """The bounds as kernels take them."""
        least = -np.inf if self.least is None else self.least
        greatest = np.inf if self.greatest is None else self.greatest
        return float_bits(least), float_bits(greatest)


@dataclass(frozen=True)
class AddTensor:
    """Add another tensor of the output's shape, with the constants of `qpc::add`.

    `a` is the value so far, `b` the tensor, which becomes one more input of the kernel. Both are as
    large in memory; `moved` says how far the channels to add are from where the outputs go.
    """

    a_zero_point: int
    b_zero_point: int
    a_multiplier: int
    b_multiplier: int
    shift: int
    output_zero_point: int
    lo: int = 0
    hi: int = 255
    moved: int = 0


@dataclass(frozen=True)
class Lookup:
    """Replace every value by its entry in a table of 256 bytes."""

    table: bytes

    def __post_init__(self) -> None:
        if len(self.table) != 256:
            raise ValueError(f"a lookup table has 256 entries, not {len(self.table)}")


@dataclass(frozen=True)
class Clamp:
    """Clamp to `lo..hi`."""

    lo: int
    hi: int


Stage: TypeAlias = AddTensor | Lookup | Clamp
Epilogue: TypeAlias = tuple[Stage, ...]
Form: TypeAlias = type[AddTensor] | type[Lookup] | type[Clamp]

_FIXED = 7  # the input's zero point and what requantization needs, in two forms
_REAL_CONSTANTS = 3  # the input's zero point and the bounds
_FITTING_MULTIPLIER = 0.5  # at most 2**30 comes of an int32, whatever is rounded
_JOINED_CONSTANTS = 3
_FITTING_SUM = 2**30  # leaves room for what joins
_CONSTANTS: dict[Form, int] = {AddTensor: 7, Lookup: 0, Clamp: 2}


@dataclass(frozen=True)
class EpilogueForm:
    """What the code of an epilogue depends on, and the types of its arguments.

    fits: whether every accumulator times its multiplier fits an int32, with what joins it. moved:
    of each tensor that is added, see `AddTensor`. real: whether it ends in float32. joins: whether
    the first of these tensors joins the accumulators. whole: whether outputs may be any activation,
    for instructions to which that matters.
    """

    stages: tuple[Form, ...]
    fits: bool = False
    moved: tuple[int, ...] = ()
    real: bool = False
    joins: bool = False
    whole: bool = False

    @classmethod
    def of(
        cls, epilogue: Epilogue, multiplier: Array, join: Join | None = None, most: float = 0.0
    ) -> EpilogueForm:
        """The form of an epilogue behind accumulators that are multiplied so.

        join: what joins them. most: the largest magnitude of what is multiplied then.
        """
        fits = float(multiplier.max(initial=0)) <= _FITTING_MULTIPLIER
        moved = [stage.moved for stage in epilogue if isinstance(stage, AddTensor)]
        if join is not None:
            fits, moved = most <= _FITTING_SUM, [join.moved, *moved]
        kinds = tuple(type(stage) for stage in epilogue)
        return cls(kinds, fits, tuple(moved), joins=join is not None)

    def __repr__(self) -> str:
        if self.real:
            return "float32"
        names = ["joins"] * self.joins + [stage.__name__ for stage in self.stages]
        names += ["fits"] * self.fits + ["whole"] * self.whole
        return "+".join(names + [f"moved by {by}" for by in self.moved if by])

    def inputs(self, output: TensorType) -> tuple[TensorType, ...]:
        """The tensors that are added."""
        return (output,) * (self.joins + self.adds)

    @property
    def adds(self) -> int:
        """How many tensors the stages add."""
        return self.stages.count(AddTensor)

    @property
    def fixed(self) -> int:
        """How many constants stand before those of the stages."""
        return _FIXED + _JOINED_CONSTANTS * self.joins

    def params(self, activation: str) -> tuple[TensorType, ...]:
        """The constants, then the tables, whose entries are activations."""
        if self.real:
            return (TensorType((_REAL_CONSTANTS,), "int32"),)
        count = self.fixed + sum(_CONSTANTS[stage] for stage in self.stages)
        table = TensorType((256,), activation)
        return (TensorType((count,), "int32"), *(table,) * self.stages.count(Lookup))


def epilogue_params(
    input_zero_point: int,
    output_zero_point: int,
    lo: int,
    hi: int,
    epilogue: Epilogue,
    activation: str,
    join: Join | None = None,
) -> tuple[Array, ...]:
    """The arrays described by `EpilogueForm.params`."""
    values = [
        input_zero_point,
        *requantize_constants(output_zero_point, lo, hi),
        *(output_zero_point, lo, hi),
        *(join.constants if join is not None else ()),
    ]
    lookup_tables = []
    for stage in epilogue:
        match stage:
            case AddTensor():
                values += add_constants(stage)
            case Clamp():
                values += (stage.lo, stage.hi)
            case Lookup():
                lookup_tables.append(np.frombuffer(stage.table, activation))
    return (np.array(values, np.int64).astype(np.int32), *lookup_tables)


def real_params(input_zero_point: int, reals: Reals) -> tuple[Array, ...]:
    """The arrays described by `EpilogueForm.params` of an epilogue that ends in float32."""
    return (np.array((input_zero_point, *reals.bits), np.int32),)


@dataclass(frozen=True)
class EpilogueCode:
    """Emits an epilogue; `constants`, `added` and `tables` are arguments of the function."""

    isa: Isa
    form: EpilogueForm
    constants: Flat
    added: Sequence[Flat]
    tables: Sequence[Flat]

    def part(self, offset: Index) -> EpilogueCode:
        """The same, with the constants `offset` elements further on."""
        return replace(self, constants=self.constants.part(offset))

    def input_zero_point(self) -> Expr:
        """The activation that pads the input."""
        return T.cast(self.constants.load(0), self.isa.activation)

    def requantized(
        self, accs: Sequence[Expr], multipliers: Sequence[Expr], *, in_order: bool
    ) -> Expr:
        """Activations of several int32 vectors, in the order of `interleave` or in order."""
        isa = self.isa
        bounds = [self.constants.load(i) for i in range(4, _FIXED)]
        if self.form.whole:
            return isa.cut_to_bytes(accs, multipliers, bounds[0])
        if (together := isa.requantized(accs, multipliers, bounds)) is not None:
            return together
        products = [
            cast(acc, "float32", isa.lanes) * multiplier
            for acc, multiplier in zip(accs, multipliers, strict=True)
        ]
        if (self.form.fits or isa.saturates) and isa.rounds_to_bytes(len(products)):
            return isa.rounded_to_bytes(products, *bounds, in_order=in_order)
        constants = [self.constants.load(i) for i in range(1, 4)]
        parts = [bind(rounded(product, constants, isa.lanes)) for product in products]
        return isa.narrow_in_order(parts) if in_order else isa.narrow(parts)

    def other(self, offset: Index, lanes: int) -> Expr:
        """Activations that join the sums of the outputs at a place."""
        moved = self.form.moved[0]
        return self.added[0].load(offset + moved if moved else offset, lanes)

    def joined(
        self,
        accs: Sequence[Expr],
        multipliers: Sequence[Expr],
        others: Sequence[Expr],
        *,
        in_order: bool,
    ) -> Expr:
        """`requantized` with vectors of activations, of as many lanes, added before."""
        isa = self.isa
        products = [
            cast(acc, "float32", isa.lanes) * multiplier
            for acc, multiplier in zip(accs, multipliers, strict=True)
        ]
        numbers = [self.constants.load(_FIXED + i) for i in range(_JOINED_CONSTANTS)]
        ends = [self.constants.load(i) for i in range(4, _FIXED)]
        fits = self.form.fits
        return joined(isa, products, others, numbers, ends, fits=fits, in_order=in_order)

    def real(self, acc: Expr, multiplier: Expr) -> Expr:
        """The float32 values of an int32 vector."""
        bounds = [self.constants.load(i) for i in range(1, _REAL_CONSTANTS)]
        return bind(real_values(acc, multiplier, bounds, self.isa.lanes))

    def stages(self, value: Expr, offset: Index, lanes: int) -> Expr:
        """The stages applied to activations `value`, whose place in the output is `offset`."""
        own, lookup_tables = zip(self.added, self.form.moved, strict=True), iter(self.tables)
        added, at = islice(own, int(self.form.joins), None), self.form.fixed
        for stage in self.form.stages:
            constants = [self.constants.load(at + i) for i in range(_CONSTANTS[stage])]
            at += len(constants)
            if stage is AddTensor:
                other, moved = next(added)
                other = other.load(offset + moved if moved else offset, lanes)
                value = self.isa.added(value, other, constants, lanes)
            elif stage is Lookup:
                value = self.isa.lookup(next(lookup_tables), value, lanes)
            else:
                value = self.isa.clamped(value, constants[0], constants[1], lanes)
            value = bind(value)
        return value


def requantize_constants(output_zero_point: int, lo: int, hi: int) -> tuple[int, ...]:
    """The numbers that `requantized` needs."""
    lowest, highest = float(lo - output_zero_point), float(hi - output_zero_point)
    return output_zero_point - ROUNDING, float_bits(lowest), float_bits(highest)


def requantized(acc: Expr, multiplier: Expr, constants: Sequence[Expr], lanes: int) -> Expr:
    """int32 in lo..hi of an int32 accumulator."""
    return rounded(cast(acc, "float32", lanes) * multiplier, constants, lanes)


def rounded(value: Expr, constants: Sequence[Expr], lanes: int) -> Expr:
    """int32 in lo..hi of a float: clamped, rounded half to even, moved; NaN becomes lo.

    Clamping first keeps every later step in range, and stands between the multiplication and the
    addition that rounds: fused into one instruction, they would round differently.
    """
    offset, lowest, highest = constants
    value = T.max(value, splat(T.reinterpret("float32", lowest), lanes))
    value = T.min(value, splat(T.reinterpret("float32", highest), lanes))
    shifted = value + splat(T.reinterpret("float32", T.IntImm("int32", ROUNDING)), lanes)
    return reinterpret(shifted, "int32", lanes) + splat(offset, lanes)


def real_values(acc: Expr, multiplier: Expr, bounds: Sequence[Expr], lanes: int) -> Expr:
    """float32 of an int32 accumulator; the bounds are given by their bits."""
    value = cast(acc, "float32", lanes) * multiplier
    least, greatest = (splat(T.reinterpret("float32", bound), lanes) for bound in bounds)
    return T.min(T.max(value, least), greatest)


def add_constants(add: AddTensor) -> tuple[int, ...]:
    """The numbers that `Isa.added` needs. All that does not depend on data is folded into one."""
    rounding = 1 << (add.shift - 1) if add.shift else 0
    return (
        add.a_multiplier,
        add.b_multiplier,
        rounding - add.a_zero_point * add.a_multiplier - add.b_zero_point * add.b_multiplier,
        add.shift,
        add.output_zero_point,
        add.lo,
        add.hi,
    )

"""What joins a layer's accumulators before they are activations: the other operand of an addition.

The bound in the definition is left out where the real weights prove that no product leaves int32:
it changes no result, see `qpc.quant.arithmetic.requantize_joined`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvm.tirx import Expr
from tvm.tirx.script import builder as T

from qpc.backends.tvm.kernels.emit import bind, float32, splat
from qpc.backends.tvm.kernels.isa.base import Isa
from qpc.quant.arithmetic import JOINED_BOUND


@dataclass(frozen=True)
class Join:
    """What joins accumulators before they are activations, with the numbers of `qpc::conv2d_add`.

    The other operand is an input of the kernel, like those of `AddTensor`, before all of these.
    """

    zero_point: int
    multiplier: int
    shift: int
    moved: int = 0

    @property
    def constants(self) -> tuple[int, ...]:
        """The numbers that `Isa.joined` needs; all that does not depend on data is one of them."""
        rounding = 1 << (self.shift - 1) if self.shift else 0
        return self.multiplier, rounding - self.zero_point * self.multiplier, self.shift


def joined(
    isa: Isa,
    products: Sequence[Expr],
    others: Sequence[Expr],
    numbers: Sequence[Expr],
    ends: Sequence[Expr],
    *,
    fits: bool,
    in_order: bool,
) -> Expr:
    """Activations of vectors of float32 products and of activations.

    numbers: `Join.constants`. ends: zero point, lo and hi of the result. fits: whether all products
    fit an int32, with what joins them. in_order: see `EpilogueCode.requantized`.
    """
    factor, offset, shift = (splat(number, isa.lanes) for number in numbers)
    sums, exact = [], fits and isa.rounds_exactly
    for product, other in zip(products, others, strict=True):
        whole = isa.nearest(product if exact else bounded(product, isa.lanes))
        total = whole + isa.times(other, factor) + offset
        sums.append(bind(T.shift_right(total, shift)))
    zero_point, lo, hi = ends
    if isa.rounds_to_bytes(len(sums)):
        return isa.moved_to_bytes(sums, zero_point, lo, hi, in_order=in_order)
    moved = (part + splat(zero_point, isa.lanes) for part in sums)
    least, most = splat(lo, isa.lanes), splat(hi, isa.lanes)
    parts = [bind(T.min(T.max(part, least), most)) for part in moved]
    return isa.narrow_in_order(parts) if in_order else isa.narrow(parts)


def bounded(value: Expr, lanes: int) -> Expr:
    """float32 clamped to where it joins an addition."""
    bound = float(JOINED_BOUND)
    return T.min(T.max(value, float32(-bound, lanes)), float32(bound, lanes))

"""Sums and products, and the requantization that ends most integer operators.

Everything is an ONNX operator that is exact: integer arithmetic, one float32 product, rounding half
to even. So every runtime that does what ONNX says computes these very integers.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.fx import Node

from qpc.calls import arguments, qpc_ops
from qpc.exporting.onnx.exporter import Exporter, Rule, clip
from qpc.quant.arithmetic import JOINED_BOUND
from qpc.types import dtype_name

_MOST_OF_A_SUM = 2**25
"""More than the magnitude of any sum that `qpc::add` forms before it shifts."""


def int32(to: Exporter, value: int) -> str:
    """A number."""
    return to.constant(np.int32(value))


def centred(to: Exporter, source: Node, zero_point: int) -> str:
    """The int32 distances of a value's integers from their zero point."""
    name = to.cast(to.of(source), torch.int32)
    return to.emit("Sub", [name, int32(to, zero_point)]) if zero_point else name


def requantized(to: Exporter, node: Node, accumulator: str, multiplier: str) -> str:
    """int32 accumulators on the grid of a call: `clamp(rne(float32(acc) * m) + z, lo, hi)`.

    Or the reals that they stand for, `clamp(float32(acc) * m, least, greatest)`, where it says so.
    """
    real = to.emit("Mul", [to.cast(accumulator, torch.float32), multiplier])
    given = arguments(node)
    if "greatest" not in given:
        return rounded(to, node, real)
    return clip(to, real, given["least"], given["greatest"])


def rounded(to: Exporter, node: Node, real: str) -> str:
    """`clamp(rne(real) + z, lo, hi)`, clamped first so that nothing overflows."""
    given = arguments(node)
    zero_point = given.get("output_zero_point", given.get("zero_point"))
    ends = [to.constant(np.float32(given[end] - zero_point)) for end in ("lo", "hi")]
    whole = to.cast(to.emit("Round", [to.emit("Clip", [real, *ends])]), torch.int32)
    if zero_point:
        whole = to.emit("Add", [whole, int32(to, zero_point)])
    return to.cast(whole, to.type(node).dtype)


def shifted(to: Exporter, total: str, shift: int, most: int) -> str:
    """`total >> shift` rounded down, of int32 above `-most`.

    ONNX shifts unsigned integers only, and its division cuts off: so it is done above zero.
    """
    if not shift:
        return total
    above = -(-most >> shift)
    total = to.emit("Add", [total, int32(to, above << shift)]) if above else total
    total = to.emit("Div", [total, int32(to, 1 << shift)])
    return to.emit("Sub", [total, int32(to, above)]) if above else total


def _add(to: Exporter, node: Node) -> str:
    """`qpc::add`."""
    given = arguments(node)
    a, b = (
        to.emit(
            "Mul",
            [
                centred(to, given[side], given[f"{side}_zero_point"]),
                int32(to, given[f"{side}_multiplier"]),
            ],
        )
        for side in "ab"
    )
    total = to.emit("Add", [a, b])
    if "shift" not in given:
        return requantized(to, node, total, to.constant(np.float32(given["scale"])))
    return summed(to, node, total)


def joined(to: Exporter, node: Node, accumulator: str, multiplier: str) -> str:
    """int32 accumulators and the other operand of an addition, on the grid of the call."""
    given = arguments(node)
    real = to.emit("Mul", [to.cast(accumulator, torch.float32), multiplier])
    ends = [to.constant(np.float32(end)) for end in (-JOINED_BOUND, JOINED_BOUND)]
    own = to.cast(to.emit("Round", [to.emit("Clip", [real, *ends])]), torch.int32)
    other = centred(to, given["other"], given["other_zero_point"])
    other = to.emit("Mul", [other, int32(to, given["other_multiplier"])])
    return summed(to, node, to.emit("Add", [own, other]))


def summed(to: Exporter, node: Node, total: str) -> str:
    """int32 sums on a fixed-point grid, shifted to the grid of the call."""
    given = arguments(node)
    shift = given["shift"]
    if shift:
        total = to.emit("Add", [total, int32(to, 1 << (shift - 1))])
    total = shifted(to, total, shift, _MOST_OF_A_SUM)
    if given["output_zero_point"]:
        total = to.emit("Add", [total, int32(to, given["output_zero_point"])])
    # Clip takes no int32 in some runtimes; integers of this size are exact floats.
    dtype = to.type(node).dtype
    ends = [to.constant(np.float32(given[end])) for end in ("lo", "hi")]
    return to.cast(to.emit("Clip", [to.cast(total, torch.float32), *ends]), dtype)


def _mul(to: Exporter, node: Node) -> str:
    """`qpc::mul`."""
    given = arguments(node)
    sides = [centred(to, given[side], given[f"{side}_zero_point"]) for side in "ab"]
    product = to.emit("Mul", sides)
    return requantized(to, node, product, to.constant(np.float32(given["multiplier"])))


def _clamp(to: Exporter, node: Node) -> str:
    """`qpc::clamp`."""
    given = arguments(node)
    dtype = dtype_name(to.type(node).dtype)
    ends = [to.constant(np.array(given[end], dtype)) for end in ("lo", "hi")]
    return to.emit("Clip", [to.value(node, "q"), *ends])


RULES: dict[object, Rule] = {
    **dict.fromkeys((qpc_ops.add.default, qpc_ops.add_float.default), _add),
    **dict.fromkeys((qpc_ops.mul.default, qpc_ops.mul_float.default), _mul),
    qpc_ops.clamp.default: _clamp,
}

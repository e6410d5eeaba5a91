"""ReLU and other clamps, in float and in integers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.fx import Node

from qpc.calls import Arg, OpView, arguments, aten
from qpc.library import NAMESPACE, define, like_first
from qpc.ops.pointwise import first_input, tabulate
from qpc.registry import OpSpec, Quantization, Role, fits_by_itself, overloads, spec_of

if TYPE_CHECKING:
    from qpc.analysis.integer_proofs import IntegerProof
    from qpc.conversion import Conversion
    from qpc.quant.grid import QParams


class Relu(OpView, of=aten.relu.default):
    """`max(x, 0)`."""

    input = Arg[Node]("self")


class Clamp(OpView, of=aten.clamp.default):
    """ReLU6 and hardtanh are clamps in core form."""

    input = Arg[Node]("self")
    min = Arg[float | None]()
    max = Arg[float | None]()


def _clamp(q: Tensor, lo: int, hi: int) -> Tensor:
    return q.clamp(lo, hi)


CLAMP = define(
    "clamp(Tensor q, int lo, int hi) -> Tensor",
    _clamp,
    like_first,
)


class IntClamp(OpView, of=CLAMP):
    """Integer clamp."""

    input = Arg[Node]("q")
    lo = Arg[int]()
    hi = Arg[int]()


class Clamping(OpView):
    """Any integer operator that ends with a clamp to `lo`, `hi`."""

    lo = Arg[int]()
    hi = Arg[int]()

    @classmethod
    def matches(cls, node: object) -> bool:
        spec = spec_of(node) if isinstance(node, Node) else None
        return spec is not None and spec.ends_with_clamp


class Bounded(OpView):
    """Any integer operator that ends in float32 values, from `least` to `greatest`."""

    least = Arg[float | None]()
    greatest = Arg[float | None]()

    @classmethod
    def matches(cls, node: object) -> bool:
        if not isinstance(node, Node) or node.op != "call_function":
            return False
        ours = isinstance(node.target, OpOverload) and node.target.namespace == NAMESPACE
        return ours and "greatest" in arguments(node)


# --- quantization ---------------------------------------------------------------------------------


def _refuse_clamp(node: Node) -> str | None:
    clamp = Clamp(node)
    if not all(v is None or isinstance(v, int | float) for v in (clamp.min, clamp.max)):
        return "its bounds are tensors"
    return None


def _convert_relu(conversion: Conversion) -> Node:
    return _clamped(conversion, Relu(conversion.node).input, 0.0, None)


def _convert_clamp(conversion: Conversion) -> Node:
    clamp = Clamp(conversion.node)
    return _clamped(conversion, clamp.input, clamp.min, clamp.max)


def _clamped(conversion: Conversion, value: Node, lo: float | None, hi: float | None) -> Node:
    """A clamp on the grid of `value`, or a table if the result has another one."""
    grid = conversion.grid
    if conversion.grid_of(value) != grid:
        return tabulate(conversion)
    ends = (_grid_point(grid, lo, grid.lo), _grid_point(grid, hi, grid.hi))
    return conversion.call(CLAMP, conversion.integers[value], *ends)


def _grid_point(grid: QParams, real: float | None, default: int) -> int:
    if real is None:
        return default
    return int(grid.quantize(torch.tensor(float(real), dtype=torch.float32)))


def _bounded(proof: IntegerProof, node: Node) -> tuple[int, int]:
    clamp = IntClamp(node)
    least, greatest = proof.range(clamp.input)
    return min(max(least, clamp.lo), clamp.hi), min(max(greatest, clamp.lo), clamp.hi)


SPECS = (
    OpSpec(
        aten.relu.default,
        quantization=Quantization(Role.CLAMP, convert=_convert_relu, leaves_values=True),
        view=Relu,
        exact=True,
        channels=first_input,
    ),
    OpSpec(
        aten.clamp.default,
        quantization=Quantization(Role.CLAMP, _refuse_clamp, _convert_clamp, leaves_values=True),
        view=Clamp,
        exact=True,
        channels=first_input,
    ),
    OpSpec(aten.hardtanh.default, exact=True, channels=first_input),
    *(OpSpec(t, exact=True) for t in overloads("relu6 clamp_min clamp_max")),
    OpSpec(
        CLAMP,
        view=IntClamp,
        exact=True,
        ends_with_clamp=True,
        picks=True,
        bounds=_bounded,
        check=fits_by_itself,
    ),
)

"""Sums, differences and products of two values, in float and in integers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.fx import Node

from qpc.analysis.origins import activations
from qpc.calls import Arg, OpView, arguments, aten
from qpc.channels.atoms import NONE, Labels, along, collapse, compact, nothing, spread, varying_axes
from qpc.channels.flow import describe
from qpc.errors import BackendError
from qpc.library import GRID, REALS, define, in_float
from qpc.meta import info
from qpc.ops.affine import AFFINE, ChannelAffine
from qpc.ops.pointwise import POINTWISE, first_input, is_one_number
from qpc.quant.arithmetic import real_values, requantize, require_bounds
from qpc.registry import IN_FLOAT, OpSpec, Quantization, Role, fits_by_itself, overloads

if TYPE_CHECKING:
    from qpc.analysis.integer_proofs import IntegerProof
    from qpc.channels.flow import Flow
    from qpc.conversion import Conversion


class Add(OpView, of=aten.add.Tensor):
    """`a + b`; core form has no alpha."""

    a = Arg[Node]("self")
    b = Arg[Node | float]("other")


class Sub(OpView, of=aten.sub.Tensor):
    """`a - b`; core form has no alpha."""

    a = Arg[Node]("self")
    b = Arg[Node | float]("other")


class Mul(OpView, of=aten.mul.Tensor):
    """`a * b`."""

    a = Arg[Node]("self")
    b = Arg[Node | float]("other")


def _weighted_sum(
    a: Tensor,
    b: Tensor,
    a_zero_point: int,
    b_zero_point: int,
    a_multiplier: int,
    b_multiplier: int,
) -> Tensor:
    total = (a.to(torch.int32) - a_zero_point) * a_multiplier
    return total + (b.to(torch.int32) - b_zero_point) * b_multiplier


def _add(
    a: Tensor,
    b: Tensor,
    a_zero_point: int,
    b_zero_point: int,
    a_multiplier: int,
    b_multiplier: int,
    shift: int,
    output_zero_point: int,
    lo: int,
    hi: int,
) -> Tensor:
    total = _weighted_sum(a, b, a_zero_point, b_zero_point, a_multiplier, b_multiplier)
    half = 1 << (shift - 1) if shift else 0
    return (((total + half) >> shift) + output_zero_point).clamp(lo, hi).to(a.dtype)


def _fake_binary(a: Tensor, b: Tensor, *_: Any) -> Tensor:
    return a.new_empty(torch.broadcast_shapes(a.shape, b.shape))


def _add_float(
    a: Tensor,
    b: Tensor,
    a_zero_point: int,
    b_zero_point: int,
    a_multiplier: int,
    b_multiplier: int,
    scale: float,
    least: float | None,
    greatest: float | None,
) -> Tensor:
    """`scale` is that of the sum, which has less than 2**24 steps: float32 holds it exactly."""
    total = _weighted_sum(a, b, a_zero_point, b_zero_point, a_multiplier, b_multiplier)
    return real_values(total, scale, least, greatest)


_ADD = "Tensor a, Tensor b, int a_zero_point, int b_zero_point, int a_multiplier, int b_multiplier"
ADD = define(f"add({_ADD}, int shift, {GRID}) -> Tensor", _add, _fake_binary)
ADD_FLOAT = define(
    f"add_float({_ADD}, float scale, {REALS}) -> Tensor", _add_float, in_float(_fake_binary)
)


def _product(a: Tensor, b: Tensor, a_zero_point: int, b_zero_point: int) -> Tensor:
    return (a.to(torch.int32) - a_zero_point) * (b.to(torch.int32) - b_zero_point)


def _mul(
    a: Tensor,
    b: Tensor,
    a_zero_point: int,
    b_zero_point: int,
    multiplier: float,
    output_zero_point: int,
    lo: int,
    hi: int,
) -> Tensor:
    product = _product(a, b, a_zero_point, b_zero_point)
    return requantize(product, multiplier, output_zero_point, lo, hi, a.dtype)


def _mul_float(
    a: Tensor,
    b: Tensor,
    a_zero_point: int,
    b_zero_point: int,
    multiplier: float,
    least: float | None,
    greatest: float | None,
) -> Tensor:
    return real_values(_product(a, b, a_zero_point, b_zero_point), multiplier, least, greatest)


_MUL = "Tensor a, Tensor b, int a_zero_point, int b_zero_point, float multiplier"
MUL = define(f"mul({_MUL}, {GRID}) -> Tensor", _mul, _fake_binary)
MUL_FLOAT = define(f"mul_float({_MUL}, {REALS}) -> Tensor", _mul_float, in_float(_fake_binary))


# --- quantization ---------------------------------------------------------------------------------


def refuse_parameters(node: Node) -> str | None:
    """Why an operator that combines several values must stay in float."""
    if any(n.op == "get_attr" for n in node.all_input_nodes):
        return "an operand is a parameter"
    return None


def _refuse_constants(node: Node) -> str | None:
    """Why an operator whose constant operands are rounded must stay in float."""
    if not activations(node):
        return "its operands are parameters"
    for constant in node.all_input_nodes:
        if constant.op == "get_attr" and info(constant).dtype is not torch.float32:
            return f"its operand {constant.target} is {info(constant).dtype}"
    return None


def _has_one_operand(node: Node) -> bool:
    """Whether a call has one tensor that is computed; the other is a number, or a tensor of one."""
    constants = [n for n in node.all_input_nodes if n.op == "get_attr"]
    return len(activations(node)) == 1 and all(is_one_number(n) for n in constants)


def _quantization(combined: Quantization) -> Callable[[Node], Quantization]:
    """With one number an operator is pointwise, with a number for each channel affine."""

    def of(node: Node) -> Quantization:
        if _has_one_operand(node):
            return POINTWISE
        return combined if ChannelAffine.of(node) is None else AFFINE

    return of


def _convert_sum(conversion: Conversion) -> Node:
    view = Add.of(conversion.node) or Sub(conversion.node)
    assert isinstance(view.b, Node)
    first, second, last = conversion.sum_multipliers(view.a, view.b)
    second = -second if isinstance(view, Sub) else second
    operands = _operands(conversion, view.a, view.b)
    return conversion.ended((ADD, ADD_FLOAT), *operands, first, second, last)


def _convert_product(conversion: Conversion) -> Node:
    view = Mul(conversion.node)
    assert isinstance(view.b, Node)
    scale = conversion.grid_of(view.a).scale * conversion.grid_of(view.b).scale
    operands = _operands(conversion, view.a, view.b)
    return conversion.ended((MUL, MUL_FLOAT), *operands, conversion.multiplier(scale))


def _operands(conversion: Conversion, *values: Node) -> list[object]:
    """The integers, then their zero points."""
    zero_points = [conversion.grid_of(value).zero_point for value in values]
    return [*(conversion.integers[value] for value in values), *zero_points]


# --- channels -------------------------------------------------------------------------------------


def elementwise(flow: Flow, node: Node) -> Labels:
    """Channels at equal places go together."""
    sources: list[Node | Labels] = [n for n in node.all_input_nodes if flow.is_tensor(n)]
    return join(flow, node, sources, torch.Size(flow.shape(node)))


@dataclass(frozen=True)
class _Operand:
    """An argument that is broadcast to `shape`.

    labels: in the rank of the result; stretched: the axes along which it is repeated; varying:
    those along which its labels change.
    """

    labels: Labels
    stretched: frozenset[int]

    @property
    def varying(self) -> list[int]:
        return varying_axes(self.labels)

    @property
    def empty(self) -> bool:
        return bool((collapse(self.labels)[0] == NONE).all())


def join(flow: Flow, node: Node, sources: list[Node | Labels], shape: torch.Size) -> Labels:
    """Tie the channels of operands that are broadcast against each other.

    The channels of the result are on one axis. An operand of length 1 there takes part in all of
    them; one that has channels elsewhere keeps these.
    """
    later = [s for s in sources if isinstance(s, Node) and _is_unplaced(flow, s)]
    operands = [_operand(flow, s, shape) for s in sources if not any(s is x for x in later)]
    axis = _channel_axis(flow, operands)
    if axis is None:  # parameters alone, or nothing that has several channels
        operands += [_operand(flow, s, shape) for s in later]
        if (axis := _channel_axis(flow, operands)) is None:
            return _join_everywhere(flow, node, operands, shape)
        later = []
    line = _main_line(flow, operands, axis)
    for operand in operands:
        _join_one(flow, node, operand, axis, line)
    for source in later:
        _place(flow, node, source, axis, line, shape)
    return spread(flow.atoms.find(line), axis, shape)


def _operand(flow: Flow, source: Node | Labels, shape: torch.Size) -> _Operand:
    labels = flow.of(source) if isinstance(source, Node) else source
    padded = labels.reshape((1,) * (len(shape) - labels.dim()) + tuple(labels.shape))
    stretched = [a for a, size in enumerate(shape) if size != 1 and padded.shape[a] == 1]
    return _Operand(compact(padded), frozenset(stretched))


def _is_unplaced(flow: Flow, source: Node) -> bool:
    """Whether a parameter could take any of several axes for its channels."""
    if source.op != "get_attr":
        return False
    wide = sum(size > 1 for size in flow.shape(source))
    return wide > 1 and not flow.has_labels(source)


def _channel_axis(flow: Flow, operands: list[_Operand]) -> int | None:
    """The axis on which most operands agree, those that are surely channels first."""
    single = [o for o in operands if len(o.varying) == 1]
    if len({o.varying[0] for o in single}) > 1:
        sure = [o for o in single if not flow.is_imagined(o.labels)]
        single = [o for o in sure if not flow.atoms.fixed(o.labels)] or sure or single
    return single[0].varying[0] if single else None


def _main_line(flow: Flow, operands: list[_Operand], axis: int) -> Labels:
    return next(along(o.labels, axis) for o in operands if o.varying == [axis])


def _join_one(flow: Flow, node: Node, operand: _Operand, axis: int, line: Labels) -> None:
    """Tie one operand to the channels of the result, or see that it keeps what it has."""
    if axis in operand.stretched:
        reason = f"{describe(node)} repeats its only channel"
        if operand.varying:
            reason = f"{describe(node)} has channels on another axis"
        flow.decline(node, operand.labels, reason)
        return
    if not operand.empty and axis not in operand.varying:
        reason = f"{describe(node)} has channels on another axis"
        flow.decline(node, operand.labels, reason)
        flow.decline(node, line, reason)
        return
    spreaded = spread(line, axis, tuple(operand.labels.shape))
    why = f"{describe(node)} meets a tensor whose size is fixed"
    if operand.empty:
        flow.decline(node, line, why)
    flow.atoms.unite(spreaded, operand.labels, why)


def _place(
    flow: Flow, node: Node, source: Node, axis: int, line: Labels, shape: torch.Size
) -> None:
    """Let a parameter have its channels where the other operands have them."""
    own = axis - (len(shape) - len(flow.shape(source)))
    if own < 0 or flow.shape(source)[own] == 1:
        return
    if not flow.place(source, own, line):
        _join_one(flow, node, _operand(flow, source, shape), axis, line)


def _join_everywhere(flow: Flow, node: Node, operands: list[_Operand], shape: torch.Size) -> Labels:
    """Tie element by element: operands without an axis, or with several, as parameters have."""
    result: Labels | None = None
    why = f"{describe(node)} meets a tensor whose size is fixed"
    for operand in operands:
        if operand.stretched and (operand.empty or not operand.varying):
            flow.decline(node, operand.labels, f"{describe(node)} repeats its only channel")
        elif result is None:
            result = operand.labels.expand(shape)
        else:
            flow.atoms.unite(result, operand.labels, why)
    return nothing(shape) if result is None else flow.atoms.find(result)


def _gated_halves(flow: Flow, node: Node) -> Labels:
    """Half of the channels multiply the other half."""
    value, dim = node.all_input_nodes[0], arguments(node)["dim"]
    labels = flow.of(value)
    if dim % labels.dim() not in varying_axes(labels):
        return labels.narrow(dim, 0, labels.shape[dim] // 2)
    halves = flow.line(node, value, dim).reshape(2, -1)
    flow.atoms.unite(halves[0], halves[1], f"{describe(node)} multiplies halves")
    return spread(flow.atoms.find(halves[0]), dim, flow.shape(node))


def _combined(convert: Callable[[Conversion], Node]) -> Callable[[Node], Quantization]:
    return _quantization(
        Quantization(
            Role.COMBINE, _refuse_constants, convert, rounds_constants=True, ends_in_float=True
        )
    )


_SUM, _PRODUCT = _combined(_convert_sum), _combined(_convert_product)

# --- proofs ---------------------------------------------------------------------------------------

_INT16 = range(-(2**15), 2**15)
_MOST_SHIFT = 30


def _check_add(proof: IntegerProof, node: Node) -> None:
    """`2 * 255 * 2**15 + 2**29` at the most."""
    given = arguments(node)
    require_bounds(given.get("least"), given.get("greatest"))
    for name in ("a_multiplier", "b_multiplier"):
        if given[name] not in _INT16:
            raise BackendError(f"{name!r} is {given[name]}, which does not fit 16 bits")
    if "shift" in given and not 0 <= given["shift"] <= _MOST_SHIFT:
        raise BackendError(f"'shift' must be from 0 to {_MOST_SHIFT}, got {given['shift']}")


def _check_product(proof: IntegerProof, node: Node) -> None:
    given = arguments(node)
    require_bounds(given["least"], given["greatest"])


_ELEMENTWISE = (
    "pow.Tensor_Tensor where.ScalarOther where.ScalarSelf atan2 fmod.Tensor remainder.Tensor "
    "lerp.Scalar lerp.Tensor addcmul addcdiv logical_and logical_or masked_fill.Tensor "
    "clamp.Tensor copy"
)
_CHOOSING = "eq.Tensor ne.Tensor gt.Tensor lt.Tensor ge.Tensor le.Tensor"
_COMPARING = "eq.Scalar ne.Scalar gt.Scalar lt.Scalar ge.Scalar le.Scalar"
SPECS = (
    OpSpec(aten.add.Tensor, quantization=_SUM, view=Add, channels=elementwise),
    OpSpec(aten.sub.Tensor, quantization=_SUM, view=Sub, channels=elementwise),
    OpSpec(aten.mul.Tensor, quantization=_PRODUCT, view=Mul, channels=elementwise),
    OpSpec(aten.div.Tensor, quantization=_quantization(IN_FLOAT), channels=elementwise),
    OpSpec(aten.pow.Tensor_Scalar, quantization=POINTWISE, channels=elementwise),
    *(OpSpec(t, channels=elementwise) for t in overloads(_ELEMENTWISE)),
    *(OpSpec(t, channels=elementwise, exact=True) for t in overloads(_CHOOSING)),
    *(OpSpec(t, channels=first_input, exact=True) for t in overloads(_COMPARING)),
    OpSpec(aten.glu.default, channels=_gated_halves),
    OpSpec(ADD, exact=True, ends_with_clamp=True, check=_check_add),
    OpSpec(MUL, exact=True, ends_with_clamp=True, check=fits_by_itself),
    OpSpec(ADD_FLOAT, exact=True, check=_check_add),
    OpSpec(MUL_FLOAT, exact=True, check=_check_product),
)

"""Sums, differences and products of two values, in float; `integer_arithmetic` has the integers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.fx import Node

from qpc.analysis.layer_sums import joined_layer
from qpc.analysis.origins import activations
from qpc.calls import Arg, OpView, arguments, aten
from qpc.channels.atoms import NONE, Labels, along, collapse, compact, nothing, spread, varying_axes
from qpc.channels.flow import describe
from qpc.meta import info
from qpc.ops.affine import AFFINE, ChannelAffine
from qpc.ops.integer_arithmetic import ADD, ADD_FLOAT, MUL, MUL_FLOAT
from qpc.ops.pointwise import POINTWISE, first_input, is_one_number
from qpc.registry import IN_FLOAT, OpSpec, Quantization, Role, overloads, quantization_of

if TYPE_CHECKING:
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
    if (layer := joined_layer(conversion.node)) is not None:
        convert = quantization_of(layer).convert_joined
        assert convert is not None
        return convert(conversion, layer)
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


def elementwise(flow: Flow, node: Node) -> Sequence[Labels]:
    """Channels at equal places go together."""
    sources = [n for n in node.all_input_nodes if flow.is_tensor(n)]
    return join_each(flow, node, sources, torch.Size(flow.shape(node)))


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


Source = Node | tuple[Labels, ...]
"""A value, or the labels of one that is no node's, for each axis."""


def join_each(
    flow: Flow, node: Node, sources: Sequence[Source], shape: torch.Size
) -> tuple[Labels, ...]:
    """As `join`, for one axis after the other, the only one of parameters among them."""
    for source in sources:
        if isinstance(source, Node) and not flow.is_unplaced(source, node):
            flow.every(source)
    return flow.apart(node, [join(flow, node, sources, shape) for _ in flow.turns(sources)])


def join(flow: Flow, node: Node, sources: Sequence[Source], shape: torch.Size) -> Labels:
    """Tie the channels of operands that are broadcast against each other, on one axis.

    An operand of length 1 there takes part in all of them.
    """
    later = [s for s in sources if isinstance(s, Node) and flow.is_unplaced(s, node)]
    operands = [_operand(flow, s, shape) for s in sources if not any(s is x for x in later)]
    axis = _channel_axis(operands)
    if axis is None:  # parameters alone, or nothing that has several channels
        operands += [_operand(flow, s, shape) for s in later]
        return _join_everywhere(flow, node, operands, shape)
    line = _main_line(flow, operands, axis)
    for operand in operands:
        _join_one(flow, node, operand, axis, line)
    for source in later:
        _place(flow, node, source, axis, line, shape)
    return spread(flow.atoms.find(line), axis, shape)


def _operand(flow: Flow, source: Source, shape: torch.Size) -> _Operand:
    if isinstance(source, Node):
        labels = flow.of(source)
    else:
        labels = flow.pick(map(flow.atoms.find, source), source[0].shape)
    padded = labels.reshape((1,) * (len(shape) - labels.dim()) + tuple(labels.shape))
    stretched = [a for a, size in enumerate(shape) if size != 1 and padded.shape[a] == 1]
    return _Operand(compact(padded), frozenset(stretched))


def _channel_axis(operands: list[_Operand]) -> int | None:
    """The axis of those operands that have channels on one, which is the same for all of them."""
    return next((o.varying[0] for o in operands if len(o.varying) == 1), None)


def _main_line(flow: Flow, operands: list[_Operand], axis: int) -> Labels:
    return next(along(o.labels, axis) for o in operands if o.varying == [axis])


def _join_one(flow: Flow, node: Node, operand: _Operand, axis: int, line: Labels) -> None:
    """Tie one operand to the channels of the result, or see that it keeps what it has."""
    if axis in operand.stretched:
        flow.decline(node, operand.labels, f"{describe(node)} repeats its only channel")
        return
    if not operand.empty and axis not in operand.varying:
        reason = f"{describe(node)} has channels on another axis"
        flow.decline(node, operand.labels, reason)
        flow.decline(node, line, reason)
        return
    spreaded = spread(line, axis, tuple(operand.labels.shape))
    size = f"{operand.labels.shape[axis]} on axis {axis}"
    why = f"{describe(node)} meets a tensor whose size is fixed, {size}"
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
    if not flow.place(source, node, own, line):
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

_ELEMENTWISE = (
    "pow.Tensor_Tensor where.ScalarOther where.ScalarSelf atan2 fmod.Tensor remainder.Tensor "
    "lerp.Scalar lerp.Tensor addcmul addcdiv logical_and logical_or masked_fill.Tensor "
    "clamp.Tensor copy"
)
_CHOOSING = "eq.Tensor ne.Tensor gt.Tensor lt.Tensor ge.Tensor le.Tensor"
_COMPARING = "eq.Scalar ne.Scalar gt.Scalar lt.Scalar ge.Scalar le.Scalar"
SPECS = (
    OpSpec(aten.add.Tensor, quantization=_SUM, view=Add, channels_together=elementwise),
    OpSpec(aten.sub.Tensor, quantization=_SUM, view=Sub, channels_together=elementwise),
    OpSpec(aten.mul.Tensor, quantization=_PRODUCT, view=Mul, channels_together=elementwise),
    OpSpec(aten.div.Tensor, quantization=_quantization(IN_FLOAT), channels_together=elementwise),
    OpSpec(aten.pow.Tensor_Scalar, quantization=POINTWISE, channels_together=elementwise),
    *(OpSpec(t, channels_together=elementwise) for t in overloads(_ELEMENTWISE)),
    *(OpSpec(t, channels_together=elementwise, exact=True) for t in overloads(_CHOOSING)),
    *(OpSpec(t, channels=first_input, exact=True) for t in overloads(_COMPARING)),
    OpSpec(aten.glu.default, channels=_gated_halves),
)

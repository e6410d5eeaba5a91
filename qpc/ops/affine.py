"""Operators that scale and shift each channel: `y[:, c] = x[:, c] * factor[c] + offset[c]`.

Batch norms in inference are such, and arithmetic with a constant for each channel: a batch norm
that is spelled out, or a learned scale of a layer. Channels may be on any axis but the first.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from qpc.analysis.origins import activations
from qpc.analysis.roundings import unrounded
from qpc.calls import Arg, OpView, arguments, aten
from qpc.channels.atoms import Labels, spread
from qpc.meta import attribute, info, update_info
from qpc.ops.integer_convolution import CONV2D, CONV2D_FLOAT
from qpc.registry import IN_FLOAT, OpSpec, Quantization, Role, role_of

if TYPE_CHECKING:
    from qpc.channels.flow import Flow
    from qpc.conversion import Conversion


class BatchNorm(OpView, of=aten.batch_norm.default):
    """Normalises over every axis but 1 with running statistics."""

    input = Arg[Node]()
    weight = Arg[Node | None]()
    bias = Arg[Node | None]()
    running_mean = Arg[Node | None]()
    running_var = Arg[Node | None]()
    training = Arg[bool]()
    momentum = Arg[float]()
    eps = Arg[float]()


_ARITHMETIC = (aten.add.Tensor, aten.sub.Tensor, aten.mul.Tensor, aten.div.Tensor)


@dataclass(frozen=True)
class ChannelAffine:
    """One such operator: the value it reads and the parameters it is made of.

    input: the value; axis: of its channels, 1 or more.
    constants: the `get_attr` nodes.
    """

    node: Node
    input: Node
    constants: tuple[Node, ...]
    axis: int = 1

    @staticmethod
    def of(node: Node) -> ChannelAffine | None:
        """The view of such an operator; None for anything else, and for what is not constant."""
        if norm := BatchNorm.of(node):
            return _of_batch_norm(norm)
        return _of_arithmetic(node) if node.target in _ARITHMETIC else None

    def coefficients(self, gm: GraphModule) -> tuple[Tensor, Tensor]:
        """Factor and offset, float64[channels] each."""
        if norm := BatchNorm.of(self.node):
            return _batch_norm(gm, norm)
        (constant,) = self.constants
        value = attribute(gm, str(constant.target)).detach().double().flatten()
        one, zero = torch.ones_like(value), torch.zeros_like(value)
        match self.node.target:
            case aten.add.Tensor:
                return one, value
            case aten.mul.Tensor:
                return value, zero
            case aten.div.Tensor:
                return 1.0 / value, zero
        return (one, -value) if self.node.args[0] is self.input else (-one, value)


def _batch_norm(gm: GraphModule, norm: BatchNorm) -> tuple[Tensor, Tensor]:
    def tensor(node: Any, default: float, like: Tensor) -> Tensor:
        if node is None:
            return torch.full_like(like, default)
        return attribute(gm, str(unrounded(node).target)).detach().double()

    assert norm.running_mean is not None
    assert norm.running_var is not None
    mean = attribute(gm, str(norm.running_mean.target)).detach().double()
    variance = attribute(gm, str(norm.running_var.target)).detach().double()
    factor = tensor(norm.weight, 1.0, mean) / torch.sqrt(variance + norm.eps)
    return factor, tensor(norm.bias, 0.0, mean) - mean * factor


def _of_batch_norm(norm: BatchNorm) -> ChannelAffine | None:
    if norm.training or norm.running_mean is None or norm.running_var is None:
        return None
    read = (norm.weight, norm.bias, norm.running_mean, norm.running_var)
    constants = tuple(unrounded(n) for n in read if n is not None)
    if any(n.op != "get_attr" for n in constants) or norm.input.op == "get_attr":
        return None
    return ChannelAffine(norm.node, norm.input, constants)


def _of_arithmetic(node: Node) -> ChannelAffine | None:
    """Arithmetic of a value with a parameter that has a number for each place of one axis."""
    a, b = node.args[:2]
    if not (isinstance(a, Node) and isinstance(b, Node)) or node.kwargs:
        return None
    value, constant = (b, a) if a.op == "get_attr" else (a, b)
    if constant.op != "get_attr" or value.op == "get_attr":
        return None
    if node.target is aten.div.Tensor and value is b:
        return None
    shape, own = info(value).shape or (), info(constant).shape or ()
    if len(shape) < 2 or len(own) > len(shape):
        return None
    wide = [len(shape) - len(own) + i for i, size in enumerate(own) if size != 1]
    (axis,) = wide if len(wide) == 1 else (1,)
    broadcast = (*[1] * (len(shape) - len(own)), *own)
    per_channel = (*[1] * axis, shape[axis], *[1] * (len(shape) - axis - 1))
    known = axis > 0 and broadcast == per_channel
    return ChannelAffine(node, value, (constant,), axis) if known else None


# --- quantization ---------------------------------------------------------------------------------


def _refuse(node: Node) -> str | None:
    source = node
    while len(activations(source)) == 1 and role_of(source) is not Role.COMPUTE:
        source = activations(source)[0]
    if source.op == "placeholder" and info(source).dtype is not torch.uint8:
        return "it reads an input of the model, whose channels may differ too much for one grid"
    shape = info(node).shape or ()
    if any(not isinstance(size, int) for size in shape[1:]):
        return "an axis other than the first grows with the batch"
    return None


def _convert(conversion: Conversion) -> Node:
    """A depthwise convolution of one tap."""
    affine = ChannelAffine.of(conversion.node)
    assert affine is not None
    source = conversion.grid_of(affine.input)
    factor, offset = (v.float() for v in affine.coefficients(conversion.editor.gm))
    name = str(affine.constants[0].target)
    constants = conversion.channel_scales(name, source, factor, offset)
    x, shape = conversion.integers[affine.input], info(conversion.node).shape or ()
    order = [0, affine.axis, *(a for a in range(1, len(shape)) if a != affine.axis)]
    x = conversion.permuted(x, order)
    inner = tuple(shape[a] for a in order)
    if len(shape) != 4:
        pixels = prod(size for size in inner[2:] if isinstance(size, int))  # they all are
        x = conversion.reshaped(x, (*inner[:2], 1, pixels))
    geometry = ([1, 1], [0, 0], [1, 1], len(factor))
    operands = x, *constants, *geometry, source.zero_point
    made = conversion.ended((CONV2D, CONV2D_FLOAT), *operands)
    update_info(made, qparams=info(conversion.node).qparams)
    if len(shape) != 4:
        made = conversion.reshaped(made, inner)
    return conversion.permuted(made, [order.index(a) for a in range(len(shape))])


AFFINE = Quantization(Role.AFFINE, _refuse, _convert, ends_in_float=True)
"""Of operators that `ChannelAffine` knows."""


def _quantization(node: Node) -> Quantization:
    return IN_FLOAT if ChannelAffine.of(node) is None else AFFINE


# --- channels -------------------------------------------------------------------------------------


def _batch_norm_channels(flow: Flow, node: Node) -> list[Labels]:
    """Batch norm has parameters and statistics for each channel; others pass."""
    line, others = flow.across(node, arguments(node)["input"], 1)
    return [_per_channel(flow, node, line), *flow.passed(node, others)]


def _instance_norm_channels(flow: Flow, node: Node) -> list[Labels]:
    """Instance norm, too, but it has statistics over the other axes, which have to stay."""
    return [_per_channel(flow, node, flow.line(node, arguments(node)["input"], 1))]


def _per_channel(flow: Flow, node: Node, line: Labels) -> Labels:
    given = arguments(node)
    for name in ("weight", "bias", "running_mean", "running_var"):
        flow.attach(node, given[name], 0, line)
    return spread(line, 1, flow.shape(node))


SPECS = (
    OpSpec(
        aten.batch_norm.default,
        quantization=_quantization,
        view=BatchNorm,
        channels_together=_batch_norm_channels,
    ),
    OpSpec(aten.instance_norm.default, channels_together=_instance_norm_channels),
)

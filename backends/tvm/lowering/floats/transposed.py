"""Transposed convolutions of floats.

With constant weights each phase of the outputs is a convolution by a kernel of our own, and one
more kernel interleaves the phases. With others it is the convolution of an input with zeros between
its elements. TVM has a rule of its own; it writes zeros between the weights where there is
dilation, by which an infinite input becomes NaN where no tap meets it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor
from tvm import relax

from qpc.backends.tvm.kernels.floats.conv import ConvDesc
from qpc.backends.tvm.kernels.kernel import TensorType
from qpc.backends.tvm.kernels.phases import Axis, Phase
from qpc.backends.tvm.lowering import copies
from qpc.backends.tvm.lowering.floats.call import FloatCall
from qpc.backends.tvm.lowering.floats.convolution import call_conv
from qpc.backends.tvm.lowering.floats.rule import FloatRule, on_axes, per_axis, shape_of
from qpc.calls import aten
from qpc.quant.pairs import swap_groups

_NUMBERS = ("stride", "padding", "output_padding", "dilation")


def _kernel(call: FloatCall) -> relax.Expr | None:
    """By kernels, of constant weights."""
    weight, bias = call.tensors.get("weight"), call.tensors.get("bias")
    if weight is None or (bias is not None) != (call.args["bias"] is not None):
        return None
    if not call.are_floats("input", "weight", "bias") or call.args["input"].ty.ndim != weight.ndim:
        return None
    x = call.args["input"]
    each = [shape_of(x)[2:], weight.shape[2:], *(per_axis(call.args[name], x) for name in _NUMBERS)]
    axes = tuple(Axis(*numbers) for numbers in zip(*each, strict=True))
    return _Layer(call, swap_groups(weight.detach(), call.args["groups"]), bias, axes).made()


@dataclass(frozen=True)
class _Layer:
    """A transposed convolution; weight[o, c / groups, *kernel]."""

    call: FloatCall
    weight: Tensor
    bias: Tensor | None
    axes: tuple[Axis, ...]

    def made(self) -> relax.Expr:
        """The phases, in their places."""
        n, *_ = shape_of(self.call.args["input"])
        shape = (n, self.weight.shape[0], *(axis.outputs for axis in self.axes))
        parts = {
            (0, 0, *(phase.first for phase in phases)): self._part(phases)
            for phases in product(*(axis.phases for axis in self.axes))
        }
        if len(parts) == 1:
            (alone,) = parts.values()
            return alone
        types = {first: TensorType(tuple(shape_of(x)), "float32") for first, x in parts.items()}
        steps = (1, 1, *(axis.stride for axis in self.axes))
        movement = copies.interleave(types, steps, TensorType(shape, "float32"))
        return self.call.kernel(movement.kernel(self.call.threads), [*parts.values()], shape)

    def _part(self, phases: Sequence[Phase]) -> relax.Expr:
        """The outputs of a phase of each axis; where no tap is met, the bias alone."""
        n, channels, *size = shape_of(self.call.args["input"])
        outputs, padding = self.weight.shape[0], tuple((p.before, p.after) for p in phases)
        if not all(phase.taps for phase in phases):
            value = torch.zeros(outputs) if self.bias is None else self.bias.detach()
            constant = relax.const(value.reshape(-1, *(1 for _ in size)).numpy())
            shape = [s + sum(around) for s, around in zip(size, padding, strict=True)]
            filled = relax.op.broadcast_to(constant, (n, outputs, *shape))
            return self.call.emit.builder.emit(filled)
        taps = self.weight
        for axis, phase in enumerate(phases, 2):
            taps = taps.index_select(axis, torch.tensor(phase.taps))
        desc = ConvDesc(
            n,
            channels,
            tuple(size),
            outputs,
            tuple(taps.shape[2:]),
            tuple(1 for _ in size),
            padding,
            tuple(phase.dilation for phase in phases),
            self.call.args["groups"],
            self.bias is not None,
        )
        return call_conv(self.call, desc, taps, self.bias)


def _as_convolution(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sequence[int] = (1,),
    padding: Sequence[int] = (0,),
    output_padding: Sequence[int] = (0,),
    groups: int = 1,
    dilation: Sequence[int] = (1,),
) -> Tensor:
    """The ordinary convolution of the input with zeros between its elements."""
    axes = weight.ndim - 2
    each = [on_axes(given, axes) for given in (stride, padding, output_padding, dilation)]
    borders: list[int] = []
    for axis, (step, pad, more, apart) in enumerate(zip(*each, strict=True), 2):
        x = _spread(x, axis, step)
        before = apart * (weight.shape[axis] - 1) - pad
        borders = [before, before + more, *borders]
    x = aten.constant_pad_nd.default(x, borders)
    turned = aten.flip.default(swap_groups(weight, groups), list(range(2, weight.ndim)))
    convolution = (aten.conv1d, aten.conv2d, aten.conv3d)[axes - 1].default
    made = convolution(x, turned, bias, [1] * axes, [0] * axes, each[3], groups)
    assert isinstance(made, Tensor)
    return made


def _spread(x: Tensor, axis: int, step: int) -> Tensor:
    """`step - 1` zeros between neighbours along an axis."""
    if step == 1:
        return x
    apart = x.unsqueeze(axis + 1)
    zeros = [0, 0] * (apart.ndim - axis - 2) + [0, step - 1]
    spread: Tensor = aten.constant_pad_nd.default(apart, zeros).flatten(axis, axis + 1)
    return spread.narrow(axis, 0, (x.shape[axis] - 1) * step + 1)


RULES: dict[object, FloatRule] = {
    operator: FloatRule(kernel=_kernel, decomposition=_as_convolution)
    for operator in (
        aten.conv_transpose1d.default,
        aten.conv_transpose2d.input,
        aten.conv_transpose3d.input,
    )
}

"""Transposed convolutions of floats.

With constant weights over one or two axes, each phase of the outputs is a convolution by a kernel
of our own, and one more kernel interleaves the phases. Others are TVM's, if they have no dilation:
TVM writes zeros between the weights, by which an infinite input becomes NaN where no tap meets it.
What is left becomes an ordinary convolution of an image with zeros between its elements.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor
from tvm import relax

from qpc.backends.tvm.kernels.floats.conv import ConvDesc, conv
from qpc.backends.tvm.kernels.kernel import TensorType
from qpc.backends.tvm.kernels.phases import Axis, Phase
from qpc.backends.tvm.lowering import copies
from qpc.backends.tvm.lowering.floats.call import FloatCall
from qpc.backends.tvm.lowering.floats.rule import per_axis, shape_of
from qpc.calls import aten


def transposed_kernel(call: FloatCall) -> relax.Expr | None:
    """By kernels: of constant weights, over one or two axes."""
    x = call.args["input"]
    weight, bias = call.tensors.get("weight"), call.tensors.get("bias")
    if weight is None or (bias is not None) != (call.args["bias"] is not None):
        return None
    if not call.are_floats("input", "weight", "bias") or x.ty.ndim != weight.ndim:
        return None
    if weight.ndim not in (3, 4):
        return None
    return _Layer.of(call, weight.detach(), bias).made()


@dataclass(frozen=True)
class _Layer:
    """A transposed convolution over two axes; one axis is an image of height 1."""

    call: FloatCall
    weight: Tensor
    """weight[c, o / groups, kh, kw]."""
    bias: Tensor | None
    axes: tuple[Axis, Axis]
    groups: int

    @classmethod
    def of(cls, call: FloatCall, weight: Tensor, bias: Tensor | None) -> _Layer:
        args, x = call.args, call.args["input"]
        numbers = ("stride", "padding", "output_padding", "dilation")
        axes = [
            Axis(*sizes)
            for sizes in zip(
                shape_of(x)[2:],
                weight.shape[2:],
                *(per_axis(args[name], x) for name in numbers),
                strict=True,
            )
        ]
        columns, rows = axes[-1], axes[0] if len(axes) == 2 else Axis(1, 1, 1, 0, 0, 1)
        images = weight.reshape(*weight.shape[:2], rows.kernel, columns.kernel)
        return cls(call, images, bias, (rows, columns), args["groups"])

    def made(self) -> relax.Expr:
        """The phases, in their places."""
        x, emit = self.call.args["input"], self.call.emit
        n, *_ = shape_of(x)
        shape = (n, self.outputs, *(axis.outputs for axis in self.axes))
        parts = {
            (0, 0, row.first, column.first): self._phase(row, column)
            for row, column in product(*(axis.phases for axis in self.axes))
        }
        given = shape if x.ty.ndim == 4 else (*shape[:2], shape[3])
        if len(parts) == 1:
            (alone,) = parts.values()
            return emit.view(alone, given)
        types = {
            first: TensorType(tuple(shape_of(part)), "float32") for first, part in parts.items()
        }
        steps = (1, 1, *(axis.stride for axis in self.axes))
        movement = copies.interleave(types, steps, TensorType(shape, "float32"))
        kernel = movement.kernel(self.call.threads)
        return self.call.kernel(kernel, list(parts.values()), given)

    @property
    def outputs(self) -> int:
        return int(self.weight.shape[1]) * self.groups

    def _phase(self, row: Phase, column: Phase) -> relax.Expr:
        """The convolution of some rows and columns; where no tap is met, the bias alone."""
        x, rows, columns = self.call.args["input"], *self.axes
        n, channels, *_ = shape_of(x)
        bias = None if self.bias is None else self.bias.detach().numpy()
        if not row.taps or not column.taps:
            size = (
                rows.inputs + row.before + row.after,
                columns.inputs + column.before + column.after,
            )
            value = torch.zeros(self.outputs) if self.bias is None else self.bias.detach()
            constant = relax.const(value.reshape(1, -1, 1, 1).numpy())
            filled = relax.op.broadcast_to(constant, (n, self.outputs, *size))
            return self.call.emit.builder.emit(filled)
        taps = outputs_first(self.weight, self.groups)[:, :, list(row.taps)]
        taps = taps[:, :, :, list(column.taps)].contiguous()
        desc = ConvDesc(
            n,
            channels,
            (rows.inputs, columns.inputs),
            self.outputs,
            (len(row.taps), len(column.taps)),
            (1, 1),
            ((row.before, row.after), (column.before, column.after)),
            (row.dilation, column.dilation),
            self.groups,
            bias is not None,
        )
        made = conv(self.call.isa, desc, taps.numpy(), bias, self.call.threads)
        return self.call.kernel(made, [x], (n, self.outputs, *desc.out))


def outputs_first(weight: Tensor, groups: int) -> Tensor:
    """weight[c, o / groups, *kernel] -> [o, c / groups, *kernel]."""
    c, per_group, *kernel = weight.shape
    split = weight.reshape(groups, c // groups, per_group, *kernel)
    return split.transpose(1, 2).reshape(groups * per_group, c // groups, *kernel)


def as_convolution(
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
    each = [_each(given, axes) for given in (stride, padding, output_padding, dilation)]
    borders: list[int] = []
    for axis, (step, pad, more, apart) in enumerate(zip(*each, strict=True), 2):
        x = _spread(x, axis, step)
        before = apart * (weight.shape[axis] - 1) - pad
        borders = [before, before + more, *borders]
    x = aten.constant_pad_nd.default(x, borders)
    turned = aten.flip.default(outputs_first(weight, groups), list(range(2, weight.ndim)))
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
    return (
        aten.constant_pad_nd.default(apart, zeros)
        .flatten(axis, axis + 1)
        .narrow(axis, 0, (x.shape[axis] - 1) * step + 1)
    )


def _each(given: int | Sequence[int], axes: int) -> list[int]:
    values = [given] if isinstance(given, int) else list(given)
    return values * axes if len(values) == 1 else values

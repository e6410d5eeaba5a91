"""Convolutions, in float and in integers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.fx import Node
from torch.nn import functional as F

from qpc.calls import One, Pair, arguments, aten, qpc_ops, set_arguments
from qpc.channels.atoms import Labels, spread
from qpc.channels.flow import describe
from qpc.layers import IntWeighted, Weighted, weighted
from qpc.library import GRID, REALS, define, in_float
from qpc.meta import info
from qpc.ops.linear import check_layer, computed_weight, refuse_layer
from qpc.quant.arithmetic import real_values, requantize, wrap_int32
from qpc.registry import OpSpec, Quantization, Role, op_name

if TYPE_CHECKING:
    from qpc.channels.flow import Flow
    from qpc.channels.removal import Removal
    from qpc.conversion import Conversion, Endings


class Conv1d(Weighted, of=aten.conv1d.default):
    """weight[out, in/groups, k]."""

    stride = One()
    padding = One()
    dilation = One()


class Conv2d(Weighted, of=aten.conv2d.default):
    """weight[out, in/groups, kh, kw]."""

    stride = Pair()
    padding = Pair()
    dilation = Pair()


class Conv3d(Weighted, of=aten.conv3d.default):
    """weight[out, in/groups, kd, kh, kw]."""


class ConvTranspose1d(Weighted, of=aten.conv_transpose1d.default):
    """weight[in, out/groups, k]."""

    stride = One()
    padding = One()
    output_padding = One()
    dilation = One()
    output_axis = 1
    transposed = True


class ConvTranspose2d(Weighted, of=aten.conv_transpose2d.input):
    """weight[in, out/groups, kh, kw]."""

    stride = Pair()
    padding = Pair()
    output_padding = Pair()
    dilation = Pair()
    output_axis = 1
    transposed = True


class ConvTranspose3d(Weighted, of=aten.conv_transpose3d.input):
    """weight[in, out/groups, kd, kh, kw]."""

    output_axis = 1
    transposed = True


def _conv2d_sums(
    q: Tensor,
    weight: Tensor,
    bias: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    input_zero_point: int,
) -> Tensor:
    centred = q.to(torch.float64) - input_zero_point  # so that padding contributes zero
    total = F.conv2d(
        centred,
        weight.to(torch.float64),
        None,
        tuple(stride),
        tuple(padding),
        tuple(dilation),
        groups,
    )
    return wrap_int32(total + bias.to(torch.float64)[:, None, None])


def _conv2d(
    q: Tensor,
    weight: Tensor,
    bias: Tensor,
    multiplier: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    input_zero_point: int,
    output_zero_point: int,
    lo: int,
    hi: int,
) -> Tensor:
    acc = _conv2d_sums(q, weight, bias, stride, padding, dilation, groups, input_zero_point)
    return requantize(acc, multiplier[:, None, None], output_zero_point, lo, hi, q.dtype)


def _conv2d_float(
    q: Tensor,
    weight: Tensor,
    bias: Tensor,
    multiplier: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    input_zero_point: int,
    least: float | None,
    greatest: float | None,
) -> Tensor:
    acc = _conv2d_sums(q, weight, bias, stride, padding, dilation, groups, input_zero_point)
    return real_values(acc, multiplier[:, None, None], least, greatest)


def _fake_conv2d(
    q: Tensor,
    weight: Tensor,
    bias: Tensor,
    multiplier: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    *_: Any,
) -> Tensor:
    sizes = [
        (q.shape[2 + i] + 2 * padding[i] - dilation[i] * (weight.shape[2 + i] - 1) - 1) // stride[i]
        + 1
        for i in (0, 1)
    ]
    return q.new_empty((q.shape[0], weight.shape[0], *sizes))


_CONV2D = (
    "Tensor q, Tensor weight, Tensor bias, Tensor multiplier, int[2] stride, int[2] padding,"
    " int[2] dilation, int groups, int input_zero_point"
)
CONV2D = define(f"conv2d({_CONV2D}, {GRID}) -> Tensor", _conv2d, _fake_conv2d)
CONV2D_FLOAT = define(
    f"conv2d_float({_CONV2D}, {REALS}) -> Tensor", _conv2d_float, in_float(_fake_conv2d)
)


def _conv_transpose2d_sums(
    q: Tensor,
    weight: Tensor,
    bias: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    output_padding: Sequence[int],
    groups: int,
    dilation: Sequence[int],
    input_zero_point: int,
) -> Tensor:
    centred = q.to(torch.float64) - input_zero_point
    total = F.conv_transpose2d(
        centred,
        weight.to(torch.float64),
        None,
        tuple(stride),
        tuple(padding),
        tuple(output_padding),
        groups,
        tuple(dilation),
    )
    return wrap_int32(total + bias.to(torch.float64)[:, None, None])


def _conv_transpose2d(
    q: Tensor,
    weight: Tensor,
    bias: Tensor,
    multiplier: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    output_padding: Sequence[int],
    groups: int,
    dilation: Sequence[int],
    input_zero_point: int,
    output_zero_point: int,
    lo: int,
    hi: int,
) -> Tensor:
    window = stride, padding, output_padding, groups, dilation
    acc = _conv_transpose2d_sums(q, weight, bias, *window, input_zero_point)
    return requantize(acc, multiplier[:, None, None], output_zero_point, lo, hi, q.dtype)


def _conv_transpose2d_float(
    q: Tensor,
    weight: Tensor,
    bias: Tensor,
    multiplier: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    output_padding: Sequence[int],
    groups: int,
    dilation: Sequence[int],
    input_zero_point: int,
    least: float | None,
    greatest: float | None,
) -> Tensor:
    window = stride, padding, output_padding, groups, dilation
    acc = _conv_transpose2d_sums(q, weight, bias, *window, input_zero_point)
    return real_values(acc, multiplier[:, None, None], least, greatest)


def _fake_conv_transpose2d(
    q: Tensor,
    weight: Tensor,
    bias: Tensor,
    multiplier: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    output_padding: Sequence[int],
    groups: int,
    dilation: Sequence[int],
    *_: Any,
) -> Tensor:
    sizes = [
        (q.shape[2 + i] - 1) * stride[i]
        - 2 * padding[i]
        + dilation[i] * (weight.shape[2 + i] - 1)
        + output_padding[i]
        + 1
        for i in (0, 1)
    ]
    return q.new_empty((q.shape[0], weight.shape[1] * groups, *sizes))


_CONV_TRANSPOSE2D = (
    "Tensor q, Tensor weight, Tensor bias, Tensor multiplier, int[2] stride, int[2] padding,"
    " int[2] output_padding, int groups, int[2] dilation, int input_zero_point"
)
CONV_TRANSPOSE2D = define(
    f"conv_transpose2d({_CONV_TRANSPOSE2D}, {GRID}) -> Tensor",
    _conv_transpose2d,
    _fake_conv_transpose2d,
)
CONV_TRANSPOSE2D_FLOAT = define(
    f"conv_transpose2d_float({_CONV_TRANSPOSE2D}, {REALS}) -> Tensor",
    _conv_transpose2d_float,
    in_float(_fake_conv_transpose2d),
)


class IntConv2d(IntWeighted, of=(CONV2D, CONV2D_FLOAT)):
    """Integer convolution."""

    stride = Pair()
    padding = Pair()
    dilation = Pair()


class IntConvTranspose2d(IntWeighted, of=(CONV_TRANSPOSE2D, CONV_TRANSPOSE2D_FLOAT)):
    """Integer transposed convolution; weight[in, out/groups, kh, kw]."""

    stride = Pair()
    padding = Pair()
    output_padding = Pair()
    dilation = Pair()
    output_axis = 1
    transposed = True


def _has_no_form(node: Node) -> str:
    return f"{op_name(node)} has no integer form yet"


def _refuse(node: Node) -> str | None:
    if why := refuse_layer(node):
        return why
    if len(info(node).shape or ()) != 4:
        return "the convolution has no batch dimension"
    return None


def _convert_conv2d(conversion: Conversion) -> Node:
    layer = Conv2d(conversion.node)
    geometry = [list(layer.stride), list(layer.padding), list(layer.dilation), layer.groups]
    return _converted(conversion, (CONV2D, CONV2D_FLOAT), layer, geometry)


def _convert_transposed(conversion: Conversion) -> Node:
    layer = ConvTranspose2d(conversion.node)
    window = [list(layer.stride), list(layer.padding), list(layer.output_padding)]
    geometry = [*window, layer.groups, list(layer.dilation)]
    return _converted(conversion, _TRANSPOSED, layer, geometry)


_TRANSPOSED = (CONV_TRANSPOSE2D, CONV_TRANSPOSE2D_FLOAT)


def _converted(
    conversion: Conversion, targets: Endings, layer: Weighted, geometry: list[object]
) -> Node:
    source = conversion.grid_of(layer.input)
    operands = conversion.layer(layer)
    return conversion.ended(targets, *operands, *geometry, source.zero_point)


# --- channels -------------------------------------------------------------------------------------


def _channels(flow: Flow, node: Node) -> Labels:
    """A layer consumes channels on one weight axis and produces on the other."""
    view = weighted(node)
    assert view is not None
    if flow.parameter(view.weight) is None:
        return computed_weight(flow, node, view.weight)
    shape = flow.shape(node)
    axis = len(shape) - len(flow.shape(view.weight)) + 1  # 1, or 0 without an axis for the batch
    incoming = flow.line(node, view.input, axis)
    groups = int(arguments(node)["groups"])
    if groups > 1:
        outgoing = _grouped(flow, view, incoming, groups, shape[axis] // groups)
    else:
        flow.consume(view.weight, 1 - view.output_axis, incoming)
        outgoing = flow.produce(view.weight, view.output_axis)
    flow.attach(node, view.bias, 0, outgoing)
    return spread(outgoing, axis, shape)


def _grouped(flow: Flow, view: Weighted, incoming: Labels, groups: int, outputs: int) -> Labels:
    """Keep the groups equal: whole groups go, or the same channels of every group.

    outputs: of each group. What leaves more units is chosen. Whole groups tie a group's inputs and
    outputs into one unit.
    """
    why = f"{describe(view.node)} has {groups} groups"
    per_group = incoming.reshape(groups, -1)
    whole = per_group.shape[1] == 1 or groups >= per_group.shape[1] + outputs
    atoms = flow.atoms
    atoms.unite(per_group, per_group[:, :1] if whole else per_group[:1], why)
    if view.output_axis == 1:  # transposed: weight[in, out/groups, ...]
        flow.consume(view.weight, 0, incoming)
        if whole:
            transposed = per_group[:, :1].expand(groups, outputs).reshape(-1)
        else:
            transposed = flow.produce(view.weight, 1).repeat(groups)
        flow.grids_follow(view.weight, transposed)
        return transposed
    outgoing = flow.produce(view.weight, 0).reshape(groups, -1)
    if whole:
        atoms.unite(outgoing, per_group[:, :1], why)
    else:
        atoms.unite(outgoing, outgoing[:1], why)
        flow.consume(view.weight, 1, per_group[0])
    return outgoing.reshape(-1)


def shrink_groups(removal: Removal, node: Node) -> None:
    """Where whole groups go, fewer are left."""
    given = arguments(node)
    name = "num_groups" if "num_groups" in given else "groups"
    source, groups = node.all_input_nodes[0], int(given[name])
    left = int(removal.kept(source)[1].reshape(groups, -1).any(dim=1).sum())
    if left == groups:
        return
    set_arguments(node, **{name: left})
    for weight in node.all_input_nodes[1:]:
        if weight.target is qpc_ops.fake_quantize.default and arguments(weight)["groups"] > 1:
            set_arguments(weight, groups=left)


_NO_FORM = Quantization(Role.COMPUTE, _has_no_form)


def _quantized(convert: Callable[[Conversion], Node]) -> Quantization:
    return Quantization(Role.COMPUTE, _refuse, convert, ends_in_float=True)


def _layer(
    target: OpOverload, view: type[Weighted], quantization: Quantization = _NO_FORM
) -> OpSpec:
    return OpSpec(
        target, quantization=quantization, view=view, channels=_channels, shrink=shrink_groups
    )


SPECS = (
    _layer(aten.conv1d.default, Conv1d),
    _layer(aten.conv2d.default, Conv2d, _quantized(_convert_conv2d)),
    _layer(aten.conv3d.default, Conv3d),
    _layer(aten.conv_transpose1d.default, ConvTranspose1d),
    _layer(aten.conv_transpose2d.input, ConvTranspose2d, _quantized(_convert_transposed)),
    _layer(aten.conv_transpose3d.input, ConvTranspose3d),
    OpSpec(CONV2D, view=IntConv2d, exact=True, ends_with_clamp=True, check=check_layer),
    OpSpec(
        CONV_TRANSPOSE2D,
        view=IntConvTranspose2d,
        exact=True,
        ends_with_clamp=True,
        check=check_layer,
    ),
    OpSpec(CONV2D_FLOAT, view=IntConv2d, exact=True, check=check_layer),
    OpSpec(CONV_TRANSPOSE2D_FLOAT, view=IntConvTranspose2d, exact=True, check=check_layer),
)

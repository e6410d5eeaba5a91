"""Convolutions in float; `integer_convolution` has those in integers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from torch._ops import OpOverload
from torch.fx import Node

from qpc.calls import One, Pair, Triple, arguments, aten, qpc_ops, set_arguments
from qpc.channels.atoms import Labels, spread
from qpc.channels.flow import describe
from qpc.layers import Weighted, weighted
from qpc.meta import info
from qpc.ops.integer_convolution import (
    CONV2D,
    CONV2D_FLOAT,
    CONV_TRANSPOSE2D,
    CONV_TRANSPOSE2D_FLOAT,
)
from qpc.ops.layer_sums import CONV2D_ADD, CONV_TRANSPOSE2D_ADD
from qpc.ops.linear import computed_weight, refuse_layer
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

    stride = Triple()
    padding = Triple()
    dilation = Triple()


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


def _has_no_form(node: Node) -> str:
    """Passes make two-dimensional ones of the others, except where they say why not."""
    return f"{op_name(node)} has no integer form yet"


def _refuse(node: Node) -> str | None:
    if why := refuse_layer(node):
        return why
    if len(info(node).shape or ()) != 4:
        return "the convolution has no batch dimension"
    return None


def _convert_conv2d(conversion: Conversion) -> Node:
    layer = Conv2d(conversion.node)
    return _converted(conversion, (CONV2D, CONV2D_FLOAT), layer, _geometry(layer))


def _join_conv2d(conversion: Conversion, node: Node) -> Node:
    layer = Conv2d(node)
    return conversion.joined(CONV2D_ADD, layer, *_geometry(layer))


def _geometry(layer: Conv2d) -> list[object]:
    return [list(layer.stride), list(layer.padding), list(layer.dilation), layer.groups]


def _convert_transposed(conversion: Conversion) -> Node:
    layer = ConvTranspose2d(conversion.node)
    return _converted(conversion, _TRANSPOSED, layer, _transposed_geometry(layer))


def _join_transposed(conversion: Conversion, node: Node) -> Node:
    layer = ConvTranspose2d(node)
    return conversion.joined(CONV_TRANSPOSE2D_ADD, layer, *_transposed_geometry(layer))


def _transposed_geometry(layer: ConvTranspose2d) -> list[object]:
    window = [list(layer.stride), list(layer.padding), list(layer.output_padding)]
    return [*window, layer.groups, list(layer.dilation)]


_TRANSPOSED = (CONV_TRANSPOSE2D, CONV_TRANSPOSE2D_FLOAT)


def _converted(
    conversion: Conversion, targets: Endings, layer: Weighted, geometry: list[object]
) -> Node:
    source = conversion.grid_of(layer.input)
    operands = conversion.layer(layer)
    return conversion.ended(targets, *operands, *geometry, source.zero_point)


# --- channels -------------------------------------------------------------------------------------


def _channels(flow: Flow, node: Node) -> Sequence[Labels]:
    """A layer consumes channels on one weight axis and produces on the other.

    Channels on other axes pass if each pixel is computed by itself.
    """
    view = weighted(node)
    assert view is not None
    if flow.parameter(view.weight) is None:
        return [computed_weight(flow, node, view.weight)]
    shape = flow.shape(node)
    axis = len(shape) - len(flow.shape(view.weight)) + 1  # 1, or 0 without an axis for the batch
    incoming, others = flow.across(node, view.input, axis)
    if not _is_pointwise(flow, view):
        incoming, others = flow.line(node, view.input, axis), []
    groups = int(arguments(node)["groups"])
    if groups > 1:
        outgoing = _grouped(flow, view, incoming, groups, shape[axis] // groups)
    else:
        flow.consume(view.weight, 1 - view.output_axis, incoming)
        outgoing = flow.produce(view.weight, view.output_axis)
    flow.attach(node, view.bias, 0, outgoing)
    return [spread(outgoing, axis, shape), *flow.passed(node, others)]


def _is_pointwise(flow: Flow, view: Weighted) -> bool:
    """Whether windows are of one pixel, and there is one for each pixel."""
    kernel = flow.shape(view.weight)[2:]
    return (
        set(kernel) == {1}
        and flow.shape(view.node)[-len(kernel) :] == (flow.shape(view.input)[-len(kernel) :])
        and set(arguments(view.node)["stride"]) == {1}
    )


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


def _quantized(
    convert: Callable[[Conversion], Node], join: Callable[[Conversion, Node], Node]
) -> Quantization:
    return Quantization(Role.COMPUTE, _refuse, convert, ends_in_float=True, convert_joined=join)


def _layer(
    target: OpOverload, view: type[Weighted], quantization: Quantization = _NO_FORM
) -> OpSpec:
    return OpSpec(
        target,
        quantization=quantization,
        view=view,
        channels_together=_channels,
        shrink=shrink_groups,
    )


_CONVOLVES = _quantized(_convert_conv2d, _join_conv2d)
_TRANSPOSES = _quantized(_convert_transposed, _join_transposed)

SPECS = (
    _layer(aten.conv1d.default, Conv1d),
    _layer(aten.conv2d.default, Conv2d, _CONVOLVES),
    _layer(aten.conv3d.default, Conv3d),
    _layer(aten.conv_transpose1d.default, ConvTranspose1d),
    _layer(
        aten.conv_transpose2d.input,
        ConvTranspose2d,
        _quantized(_convert_transposed, _join_transposed),
    ),
    _layer(aten.conv_transpose3d.input, ConvTranspose3d),
)

"""Treat convolutions and pools over three axes as two-dimensional ones of all depths side by side.

Before:  x[N, C, D, H, W] -> conv3d(W[out, in, kd, kh, kw]) -> y[N, out, E, F, G]
After:   x -> pad the depth -> kd slices of it, as channels -> [N * E, kd * C, H, W]
         -> conv2d(W[out, kd * in, kh, kw]) -> [N, E, out, F, G] -> y
Keeps:   the output, up to float rounding; max-pools bit for bit
Leaves:  calls without a batch axis, convolutions whose weight something else reads too, averages
         that do not count the padding of the depth or end in a part of a window
Cost:    one walk over the graph; the values are there kd times while a convolution reads them

Integer operators and their kernels exist for images only. A sum over the taps of the depth is a sum
over channels if the taps are channels, and integer sums are the same in any order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from qpc.analysis.origins import computed
from qpc.base import Pass, PassContext
from qpc.calls import aten
from qpc.companions import channel_mask, elementwise_companions
from qpc.edit import Editor
from qpc.facts import CORE_FORM
from qpc.lineage import KeptAxis, lineage, set_lineage
from qpc.meta import attribute, info, update_info
from qpc.ops.affine import BatchNorm
from qpc.ops.convolution import Conv3d
from qpc.ops.pooling import AvgPool3d, MaxPool3d
from qpc.rewrite import Rule, apply_rules
from qpc.types import BatchDim

_RANK = 5
_SWAPPED = [0, 2, 1, 3, 4]
"""Channels and depth in each other's place."""


@dataclass(frozen=True)
class Conv3dOfABatch(Rule[Conv3d]):
    """A convolution over three axes."""

    def match(self, gm: GraphModule, node: Node) -> Conv3d | None:
        return Conv3d.of(node)

    def refuse(self, gm: GraphModule, found: Conv3d) -> str | None:
        if reason := _refuse_shape(found.node):
            return reason
        if found.weight.op != "get_attr":
            return f"its weight {computed(found.weight)}"
        others = [n for n in _readers(gm, found.weight) if n is not found.node]
        return f"its weight is read by {others[0].name} too" if others else None

    def replace(self, editor: Editor, found: Conv3d) -> str:
        node, size = found.node, _size(found.weight)
        taps = [tap * found.dilation[0] for tap in range(size[2])]
        depth, start = _size(node)[2], _padded_depth(editor, found.input, found.padding[0], node)
        pieces = [_every(editor, start, tap, found.stride[0], depth, node) for tap in taps]
        wide = _as_channels(editor, pieces, found.groups, node)
        _flatten_weight(editor, found.weight)
        window = [list(found.stride[1:]), list(found.padding[1:]), list(found.dilation[1:])]
        images = _images(editor, wide, node)
        operands = (images, found.weight, found.bias)
        made = editor.call(aten.conv2d.default, *operands, *window, found.groups, like=node)
        return _finish(editor, node, made)


@dataclass(frozen=True)
class MaxPool3dOfABatch(Rule[MaxPool3d]):
    """A max-pool over three axes: one over the depth, and one over height and width."""

    def match(self, gm: GraphModule, node: Node) -> MaxPool3d | None:
        return MaxPool3d.of(node)

    def refuse(self, gm: GraphModule, found: MaxPool3d) -> str | None:
        return _refuse_shape(found.node)

    def replace(self, editor: Editor, found: MaxPool3d) -> str:
        node, options = found.node, (found.kernel_size, found.stride, found.padding, found.dilation)
        _, channels, depth, height, width = _size(found.input)
        flat = editor.call(
            aten.reshape.default, found.input, [-1, channels, depth, height * width], like=node
        )
        along = [[option[0], 1] for option in options[:2]], [options[2][0], 0], [options[3][0], 1]
        flat = editor.call(
            aten.max_pool2d.default, flat, *along[0], *along[1:], found.ceil_mode, like=node
        )
        apart = [-1, channels, _size(node)[2], height, width]
        tall = editor.call(aten.reshape.default, flat, apart, like=node)
        across = [list(option[1:]) for option in options]
        images = _images(editor, tall, node)
        made = editor.call(aten.max_pool2d.default, images, *across, found.ceil_mode, like=node)
        return _finish(editor, node, made)


@dataclass(frozen=True)
class AvgPool3dOfABatch(Rule[AvgPool3d]):
    """An average over three axes: the taps of the depth lie side by side along the width."""

    def match(self, gm: GraphModule, node: Node) -> AvgPool3d | None:
        return AvgPool3d.of(node)

    def refuse(self, gm: GraphModule, found: AvgPool3d) -> str | None:
        if reason := _refuse_shape(found.node):
            return reason
        padding = found.padding[0]
        if padding and not found.count_include_pad:
            return "it does not count the padding of the depth"
        end = (_size(found.node)[2] - 1) * found.stride[0] + found.kernel_size[0]
        if end > _size(found.input)[2] + 2 * padding:
            return "it ends in a part of a window along the depth"
        return None

    def replace(self, editor: Editor, found: AvgPool3d) -> str:
        node, taps = found.node, found.kernel_size[0]
        _, channels, depth, *_ = _size(node)
        *_, height, width = _size(found.input)
        start = _padded_depth(editor, found.input, found.padding[0], node)
        pieces = [_every(editor, start, tap, found.stride[0], depth, node) for tap in range(taps)]
        apart = [-1, channels, depth, height, width, 1]
        pieces = [editor.call(aten.reshape.default, p, apart, like=node) for p in pieces]
        wide = pieces[0] if taps == 1 else editor.call(aten.cat.default, pieces, 5, like=node)
        joined = [-1, channels, depth, height, width * taps]
        images = _images(editor, editor.call(aten.reshape.default, wide, joined, like=node), node)
        options = (found.kernel_size, found.stride, found.padding)
        window = [[option[1], option[2] * taps] for option in options]
        ends = (found.ceil_mode, found.count_include_pad, found.divisor_override)
        made = editor.call(aten.avg_pool2d.default, images, *window, *ends, like=node)
        return _finish(editor, node, made)


@dataclass(frozen=True)
class BatchNormOfAFlattened(Rule[BatchNorm]):
    """A batch norm that reads a convolution which is one of images by now."""

    def match(self, gm: GraphModule, node: Node) -> BatchNorm | None:
        norm = BatchNorm.of(node)
        return norm if norm is not None and _images_behind(norm.input) is not None else None

    def replace(self, editor: Editor, found: BatchNorm) -> str:
        norm = found.node
        images = _images_behind(found.input)
        made = editor.call(aten.batch_norm.default, images, *norm.args[1:], like=norm)
        update_info(made, frozen=info(norm).frozen)
        return _finish(editor, norm, made)


@dataclass(frozen=True)
class FlattenConv3d(Pass, name="flatten-conv3d", requires={CORE_FORM}):
    """Make images of what convolutions over three axes, their batch norms, and pools read."""

    def apply(self, gm: GraphModule, ctx: PassContext) -> bool:
        layers = (Conv3dOfABatch(), BatchNormOfAFlattened())
        rules = (*layers, MaxPool3dOfABatch(), AvgPool3dOfABatch())
        return apply_rules(rules, self, gm, ctx)


def _refuse_shape(node: Node) -> str | None:
    shape = info(node).shape or ()
    if len(shape) != _RANK:
        return "it has no batch axis"
    if any(isinstance(d, BatchDim) for d in shape[1:]):
        return "two of its axes grow with the batch"
    return None


def _size(value: Node) -> list[int]:
    """The sizes of a value; -1 for the axis of the batch, as in the argument of a reshape."""
    return [d if isinstance(d, int) else -1 for d in info(value).shape or ()]


def _readers(gm: GraphModule, weight: Node) -> list[Node]:
    """What reads a tensor, under any of its names."""
    tensor = attribute(gm, str(weight.target))
    getters = [n for n in gm.graph.nodes if n.op == "get_attr"]
    return [user for n in getters if attribute(gm, str(n.target)) is tensor for user in n.users]


# --- from depths to images, and back --------------------------------------------------------------


def _padded_depth(editor: Editor, value: Node, padding: int, like: Node) -> Node:
    """The value with as many zeros before and behind its depth."""
    if not padding:
        return value
    amounts = [0, 0, 0, 0, padding, padding]
    return editor.call(aten.constant_pad_nd.default, value, amounts, 0.0, like=like)


def _every(editor: Editor, value: Node, first: int, step: int, count: int, like: Node) -> Node:
    """So many depths from one on, some steps apart."""
    if (first, step, count) == (0, 1, _size(value)[2]):
        return value
    end = first + (count - 1) * step + 1
    return editor.call(aten.slice.Tensor, value, 2, first, end, step, like=like)


def _as_channels(editor: Editor, pieces: Sequence[Node], groups: int, like: Node) -> Node:
    """Pieces [n, c, e, h, w] as channels [n, taps * c, e, h, w], group by group."""
    if len(pieces) == 1:
        return pieces[0]
    _, channels, *rest = _size(pieces[0])
    apart = [-1, groups, channels // groups, *rest]
    grouped = [editor.call(aten.reshape.default, p, apart, like=like) for p in pieces]
    joined = editor.call(aten.cat.default, grouped, 2, like=like)
    wide = [-1, len(pieces) * channels, *rest]
    return editor.call(aten.reshape.default, joined, wide, like=like)


def _images(editor: Editor, value: Node, like: Node) -> Node:
    """A value [n, c, e, h, w] as images [n * e, c, h, w]."""
    swapped = editor.call(aten.permute.default, value, _SWAPPED, like=like)
    _, channels, _, *rest = _size(value)
    return editor.call(aten.reshape.default, swapped, [-1, channels, *rest], like=like)


def _finish(editor: Editor, old: Node, images: Node) -> str:
    """Images [n * e, c, h, w] as the value [n, c, e, h, w] that was there before."""
    count, channels, depth, *rest = _size(old)
    apart = editor.call(aten.reshape.default, images, [count, depth, channels, *rest], like=old)
    editor.replace(old, editor.call(aten.permute.default, apart, _SWAPPED, like=old))
    return "is one of images now"


def _images_behind(value: Node) -> Node | None:
    """The images that `_finish` made a value of, if nothing else reads what lies between."""
    if value.target is not aten.permute.default or list(value.args[1]) != _SWAPPED:
        return None
    apart = value.args[0]
    if not isinstance(apart, Node) or apart.target is not aten.reshape.default:
        return None
    images, size = apart.args[0], _size(apart)
    alone = len(value.users) == 1 and len(apart.users) == 1
    return images if alone and _size(images)[1:] == size[2:] else None


def _flatten_weight(editor: Editor, weight: Node) -> None:
    """`weight[out, in, kd, kh, kw]` becomes `weight[out, kd * in, kh, kw]`."""
    gm, name = editor.gm, str(weight.target)
    tensor = attribute(gm, name)
    taps = tensor.shape[2]
    for companion in elementwise_companions(gm, name):
        editor.set_tensor(companion, _flattened(attribute(gm, companion)))
    if (mask := channel_mask(gm, name, 1)) is not None:
        editor.set_tensor(mask, attribute(gm, mask).repeat(taps))
    record = dict(lineage(gm))
    if (left := record.get((name, 1))) is not None:
        kept = [tap * left.size + index for tap in range(taps) for index in left.kept]
        set_lineage(gm, record | {(name, 1): KeptAxis(taps * left.size, tuple(kept))})
    flat = _flattened(tensor)
    editor.set_tensor(name, flat)
    update_info(weight, shape=tuple(flat.shape))


def _flattened(tensor: Tensor) -> Tensor:
    flat = tensor.detach().transpose(1, 2).flatten(1, 2).contiguous()
    if isinstance(tensor, torch.nn.Parameter):
        return torch.nn.Parameter(flat, requires_grad=tensor.requires_grad)
    return flat

"""Treat what works on one axis, such as convolutions and pools, as two-dimensional, of height 1.

Before:  x[N, C, L] -> conv1d(W[out, in, k], stride s) -> y
After:   x -> reshape[N, C, 1, L] -> conv2d(W[out, in, 1, k], stride (1, s)) -> reshape -> y
Keeps:   the output, up to float rounding; max-pools and paddings bit for bit. Resizing, too, is
         that of images
Leaves:  convolutions without a batch axis, and those whose weight something else reads too;
         paddings with one value, which need no images
Cost:    one walk over the graph

Integer operators and their kernels exist for images only. A reshape by an axis of size 1 moves
nothing, so one-dimensional networks get them for free.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from qpc.analysis.origins import computed
from qpc.base import Pass, PassContext
from qpc.calls import arguments, aten
from qpc.companions import elementwise_companions
from qpc.edit import Editor
from qpc.facts import CORE_FORM
from qpc.meta import attribute, info, update_info
from qpc.ops.affine import BatchNorm
from qpc.ops.convolution import Conv1d, Conv2d, ConvTranspose1d, ConvTranspose2d
from qpc.ops.padding import PadByValues
from qpc.ops.pooling import AvgPool1d, MaxPool1d
from qpc.rewrite import Rule, apply_rules
from qpc.types import BatchDim, Shape

_Conv = Conv1d | ConvTranspose1d


@dataclass(frozen=True)
class Conv1dOfABatch(Rule[_Conv]):
    """A convolution over one axis, transposed or not."""

    def match(self, gm: GraphModule, node: Node) -> _Conv | None:
        return Conv1d.of(node) or ConvTranspose1d.of(node)

    def refuse(self, gm: GraphModule, found: _Conv) -> str | None:
        if reason := _refuse_shape(found.node):
            return reason
        if found.weight.op != "get_attr":
            return f"its weight {computed(found.weight)}"
        getters = _getters(gm, found.weight)
        readers = [user for n in getters for user in n.users]
        others = [n for n in readers if not _reads_as_weight(n, getters)]
        return f"its weight is read by {others[0].name} too" if others else None

    def replace(self, editor: Editor, found: _Conv) -> str:
        _insert_height(editor, found.weight)
        operands = (_with_height(editor, found.input, found.node), found.weight, found.bias)
        window, dilation = ([1, found.stride], [0, found.padding]), [1, found.dilation]
        if isinstance(found, ConvTranspose1d):
            rest: tuple[object, ...] = ([0, found.output_padding], found.groups, dilation)
            target = aten.conv_transpose2d.input
        else:
            rest, target = (dilation, found.groups), aten.conv2d.default
        made = editor.call(target, *operands, *window, *rest, like=found.node)
        return _finish(editor, found.node, made)


@dataclass(frozen=True)
class MaxPool1dOfABatch(Rule[MaxPool1d]):
    """A max-pool over one axis."""

    def match(self, gm: GraphModule, node: Node) -> MaxPool1d | None:
        return MaxPool1d.of(node)

    def refuse(self, gm: GraphModule, found: MaxPool1d) -> str | None:
        return _refuse_shape(found.node)

    def replace(self, editor: Editor, found: MaxPool1d) -> str:
        made = editor.call(
            aten.max_pool2d.default,
            _with_height(editor, found.input, found.node),
            [1, found.kernel_size],
            [1, found.stride],
            [0, found.padding],
            [1, found.dilation],
            found.ceil_mode,
            like=found.node,
        )
        return _finish(editor, found.node, made)


@dataclass(frozen=True)
class AvgPool1dOfABatch(Rule[AvgPool1d]):
    """An average pool over one axis."""

    def match(self, gm: GraphModule, node: Node) -> AvgPool1d | None:
        return AvgPool1d.of(node)

    def refuse(self, gm: GraphModule, found: AvgPool1d) -> str | None:
        return _refuse_shape(found.node)

    def replace(self, editor: Editor, found: AvgPool1d) -> str:
        made = editor.call(
            aten.avg_pool2d.default,
            _with_height(editor, found.input, found.node),
            [1, found.kernel_size],
            [1, found.stride],
            [0, found.padding],
            found.ceil_mode,
            found.count_include_pad,
            like=found.node,
        )
        return _finish(editor, found.node, made)


@dataclass(frozen=True)
class PaddingOfABatch(Rule[PadByValues]):
    """A padding of one axis with values of the input."""

    def match(self, gm: GraphModule, node: Node) -> PadByValues | None:
        padding = PadByValues.of(node)
        return padding if padding is not None and len(padding.pad) == 2 else None

    def refuse(self, gm: GraphModule, found: PadByValues) -> str | None:
        return _refuse_shape(found.node)

    def replace(self, editor: Editor, found: PadByValues) -> str:
        image = _with_height(editor, found.input, found.node)
        amounts = [*found.pad, 0, 0]
        made = editor.call(aten.pad.default, image, amounts, found.mode, like=found.node)
        return _finish(editor, found.node, made)


_RESIZED = {
    aten.upsample_nearest1d: aten.upsample_nearest2d.default,
    aten._upsample_nearest_exact1d: aten._upsample_nearest_exact2d.default,
    aten.upsample_linear1d: aten.upsample_bilinear2d.default,
}


@dataclass(frozen=True)
class ResizingOfABatch(Rule[Node]):
    """Interpolation along one axis, to a size that is known."""

    def match(self, gm: GraphModule, node: Node) -> Node | None:
        known = getattr(node.target, "overloadpacket", None) in _RESIZED
        return node if known and isinstance((info(node).shape or (None,))[-1], int) else None

    def refuse(self, gm: GraphModule, found: Node) -> str | None:
        return _refuse_shape(found)

    def replace(self, editor: Editor, found: Node) -> str:
        given, size = arguments(found), (info(found).shape or ())[-1]
        (source, *_) = found.all_input_nodes
        scale = given["scale_factors"] if "scale_factors" in given else [given["scales"]]
        corners = [given["align_corners"]] if "align_corners" in given else []
        made = editor.call(
            _RESIZED[found.target.overloadpacket],  # type: ignore[union-attr]  # as matched
            _with_height(editor, source, found),
            [1, size],
            *corners,
            None,
            (scale or [None])[0],
            like=found,
        )
        return _finish(editor, found, made)


@dataclass(frozen=True)
class BatchNormOfALifted(Rule[BatchNorm]):
    """A batch norm that reads a convolution which has a height by now, through the reshape."""

    def match(self, gm: GraphModule, node: Node) -> BatchNorm | None:
        norm = BatchNorm.of(node)
        if norm is None or norm.input.target is not aten.reshape.default:
            return None
        flat = norm.input
        layer, shape = _lifted(flat.args[0]), info(flat).shape or ()
        if layer is None or len(shape) != 3 or len(flat.users) > 1:
            return None
        return norm if info(layer.node).shape == (*shape[:2], 1, shape[2]) else None

    def replace(self, editor: Editor, found: BatchNorm) -> str:
        (image, *_), norm = found.input.args, found.node
        made = editor.call(aten.batch_norm.default, image, *norm.args[1:], like=norm)
        update_info(made, frozen=info(norm).frozen)
        return _finish(editor, norm, made)


@dataclass(frozen=True)
class LiftConv1d(Pass, name="lift-conv1d", requires={CORE_FORM}):
    """Give what works on one axis a height of 1.

    Convolutions, their batch norms, pools, resizing, and padding with values of the input.
    """

    def apply(self, gm: GraphModule, ctx: PassContext) -> bool:
        layers = (Conv1dOfABatch(), BatchNormOfALifted())
        rest = (MaxPool1dOfABatch(), AvgPool1dOfABatch(), PaddingOfABatch(), ResizingOfABatch())
        rules = (*layers, *rest)
        return apply_rules(rules, self, gm, ctx)


def _refuse_shape(node: Node) -> str | None:
    shape = info(node).shape or ()
    if len(shape) != 3:
        return "it has no batch axis"
    if sum(isinstance(d, BatchDim) for d in shape) > 1:
        return "two of its axes grow with the batch"
    return None


def _reads_as_weight(node: Node, getters: list[Node]) -> bool:
    """Whether a reader is a convolution over one axis, or was one before this pass."""
    layer = Conv1d.of(node) or ConvTranspose1d.of(node) or _lifted(node)
    return layer is not None and layer.weight in getters


def _lifted(node: object) -> Conv2d | ConvTranspose2d | None:
    return Conv2d.of(node) or ConvTranspose2d.of(node)


def _getters(gm: GraphModule, weight: Node) -> list[Node]:
    """The `get_attr` nodes of one tensor, under any of its names."""
    tensor = attribute(gm, str(weight.target))
    nodes = [n for n in gm.graph.nodes if n.op == "get_attr"]
    return [n for n in nodes if attribute(gm, str(n.target)) is tensor]


def _insert_height(editor: Editor, weight: Node) -> None:
    """`weight[out, in, k]` becomes `weight[out, in, 1, k]`, once for all readers."""
    tensor = attribute(editor.gm, str(weight.target))
    if tensor.dim() == 4:
        return
    getters, wide = _getters(editor.gm, weight), _unsqueezed(tensor)
    for name in dict.fromkeys(str(n.target) for n in getters):
        for companion in elementwise_companions(editor.gm, name):
            editor.set_tensor(companion, _unsqueezed(attribute(editor.gm, companion)))
        editor.set_tensor(name, wide)
    for node in getters:
        update_info(node, shape=tuple(wide.shape))


def _unsqueezed(tensor: Tensor) -> Tensor:
    wide = tensor.detach().unsqueeze(2)
    if isinstance(tensor, torch.nn.Parameter):
        return torch.nn.Parameter(wide, requires_grad=tensor.requires_grad)
    return wide


def _with_height(editor: Editor, value: Node, before: Node) -> Node:
    shape = info(value).shape or ()
    sizes = [*_sizes(shape[:2]), 1, *_sizes(shape[2:])]
    return editor.call(aten.reshape.default, value, sizes, like=before)


def _finish(editor: Editor, old: Node, made: Node) -> str:
    flat = editor.call(aten.reshape.default, made, _sizes(info(old).shape or ()), like=old)
    editor.replace(old, flat)
    return "has height 1 now"


def _sizes(shape: Shape) -> list[int]:
    return [d if isinstance(d, int) else -1 for d in shape]

"""Fold inference-time batch normalisation into the convolution or linear layer that feeds it.

Before:  x -> conv(W, b) -> batch_norm(gamma, beta, mean, var) -> y
After:   x -> conv(W', b') -> y, with f = gamma / sqrt(var + eps)
         W' = W * f along the output channels,  b' = (b - mean) * f + beta
Keeps:   the output, up to float rounding
Leaves:  a layer or weight that is read elsewhere too; batch norms without running statistics;
         batch norms between two operators that are no layers, such as a concat and a ReLU
Cost:    one walk over the graph

Arithmetic with a constant for each channel, such as a batch norm that is spelled out or a learned
scale of a layer, is folded likewise; permutations and reshapes that keep the channels may be in
between. Where there is no such layer, operators of this kind that follow one another become one
batch norm. If only layers read it, and none of them pads what is shifted, it is folded into these:
W' = W * f along the input channels,  b' = b + sum(W * offset).

Weights that are rounded already, with the batch norm in mind (`InsertObservers(fold_later=True)`),
stay on the points of their grids: the scales take the factors, and the points their signs.

Works for convolutions of one to three dimensions, transposed ones (any groups), and linear layers,
with and without bias. The algebra is computed in float64. Jacob et al. 2018, arXiv:1712.05877,
section 3.2.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from qpc.analysis.channel_paths import layer_behind, layers_ahead, output_channel_axis
from qpc.analysis.origins import computed
from qpc.analysis.roundings import rounding_of, unrounded
from qpc.base import Pass, PassContext
from qpc.calls import arguments, aten, qpc_ops, set_arguments
from qpc.edit import Editor, reads
from qpc.facts import CORE_FORM
from qpc.layers import Weighted, outputs_first, own_layout, weighted
from qpc.meta import attribute, info, label, update_info, value_name
from qpc.ops.affine import BatchNorm, ChannelAffine
from qpc.quant.grid import LARGEST_SCALE, SMALLEST_SCALE
from qpc.rewrite import Rule, apply_rules
from qpc.settings import require_kind


@dataclass(frozen=True)
class _Found:
    """A layer, what scales and shifts its channels, and whether only moves are between the two."""

    layer: Weighted
    node: Node

    @property
    def apart(self) -> bool:
        return self.layer.node not in self.node.all_input_nodes


@dataclass(frozen=True)
class LayerThenBatchNorm(Rule[_Found]):
    """A batch norm whose input is a convolution or linear layer, or what that made, moved."""

    def match(self, gm: GraphModule, node: Node) -> _Found | None:
        affine = ChannelAffine.of(node)
        if affine is not None and (layer := layer_behind(affine.input, affine.axis)) is not None:
            return _Found(layer, node)
        norm = BatchNorm.of(node)
        layer = weighted(norm.input) if norm is not None else None
        return _Found(layer, node) if layer is not None else None

    def refuse(self, gm: GraphModule, found: _Found) -> str | None:
        return why_apart(gm, found.layer, found.node)

    def replace(self, editor: Editor, found: _Found) -> str:
        layer, affine = found.layer, ChannelAffine.of(found.node)
        assert affine is not None
        real = unrounded(layer.weight)
        weight_name = str(real.target)
        weight = attribute(editor.gm, weight_name).detach()
        factor, offset = affine.coefficients(editor.gm)
        bias = torch.zeros_like(factor)
        if layer.bias is not None:
            bias = attribute(editor.gm, str(unrounded(layer.bias).target)).detach().double()
        scaled = (weight.double() * _along_outputs(factor, weight, layer)).to(weight.dtype)
        if real is not layer.weight:
            scaled = _fold_grid(editor, layer, weight, scaled, factor)
        editor.set_tensor(weight_name, torch.nn.Parameter(scaled))
        bias_name = (
            str(unrounded(layer.bias).target)
            if layer.bias is not None
            else editor.free_name(_sibling(weight_name, "bias"))
        )
        folded = (bias * factor + offset).to(weight.dtype)
        layer.bias = editor.parameter(bias_name, folded, before=layer.node)
        norm = BatchNorm.of(found.node)
        if norm is not None and norm.bias is not None and norm.bias.op != "get_attr":
            layer.bias = _rounded_again(editor, layer, norm.bias)
        text = f"folded into {label(layer.node)}"
        if not found.apart:
            update_info(layer.node, value=value_name(found.node) or "")
        editor.replace(found.node, affine.input)
        return text


@dataclass(frozen=True)
class LayerThenArithmetic(LayerThenBatchNorm):
    """Arithmetic whose input is a convolution or linear layer, but no batch norm."""

    def match(self, gm: GraphModule, node: Node) -> _Found | None:
        return None if BatchNorm.of(node) else super().match(gm, node)


@dataclass(frozen=True)
class AffineThenAffine(Rule[tuple[ChannelAffine, ChannelAffine]]):
    """Two operators that scale and shift each channel, the first of which nothing else reads."""

    def match(self, gm: GraphModule, node: Node) -> tuple[ChannelAffine, ChannelAffine] | None:
        second = ChannelAffine.of(node)
        first = ChannelAffine.of(second.input) if second is not None else None
        if first is None or second is None or len(first.node.users) > 1:
            return None
        return (first, second) if first.axis == second.axis else None

    def replace(self, editor: Editor, found: tuple[ChannelAffine, ChannelAffine]) -> str:
        first, second = found
        (a, b), (c, d) = (each.coefficients(editor.gm) for each in found)
        factor, offset = a * c, b * c + d
        name = editor.free_name(f"{first.node.name}_{second.node.name}")
        values = {"weight": factor, "bias": offset}
        state = {"running_mean": torch.zeros_like(a), "running_var": torch.ones_like(a)}
        before, rank = second.node, len(info(second.node).shape or ())
        order = [0, first.axis, *(a for a in range(1, rank) if a != first.axis)]
        norm = editor.call(
            aten.batch_norm.default,
            _permuted(editor, first.input, order, before),
            *[editor.parameter(f"{name}.{k}", v.float(), before=before) for k, v in values.items()],
            *[editor.buffer(f"{name}.{k}", v.float(), before=before) for k, v in state.items()],
            False,
            0.0,
            0.0,
            False,
            like=before,
        )
        back = [order.index(a) for a in range(rank)]
        editor.replace(before, _permuted(editor, norm, back, before))
        return f"joined with {label(first.node)}"


@dataclass(frozen=True)
class AffineThenLayers(Rule[tuple[ChannelAffine, tuple[Weighted, ...]]]):
    """What scales and shifts the input channels of every layer that reads it, and nothing else."""

    def match(
        self, gm: GraphModule, node: Node
    ) -> tuple[ChannelAffine, tuple[Weighted, ...]] | None:
        affine = ChannelAffine.of(node)
        layers = layers_ahead(node, affine.axis) if affine is not None else None
        if affine is None or not layers:
            return None
        shifts = bool(affine.coefficients(gm)[1].any())
        ready = all(_can_take(gm, layer, shifts=shifts) for layer in layers)
        return (affine, tuple(layers)) if ready else None

    def replace(self, editor: Editor, found: tuple[ChannelAffine, tuple[Weighted, ...]]) -> str:
        affine, layers = found
        factor, offset = affine.coefficients(editor.gm)
        for layer in layers:
            _take(editor, layer, factor, offset)
        editor.replace(affine.node, affine.input)
        return f"folded into {', '.join(label(layer.node) for layer in layers)}"


def _permuted(editor: Editor, value: Node, order: list[int], before: Node) -> Node:
    if order == sorted(order):
        return value
    return editor.call(aten.permute.default, value, order, like=before)


def _can_take(gm: GraphModule, layer: Weighted, *, shifts: bool) -> bool:
    """Whether the input channels of a layer may be scaled, and shifted, in its parameters.

    What is shifted must not be padded: padding is zero behind the shift, not before it.
    """
    parts = [part for part in (layer.weight, layer.bias) if part is not None]
    if any(part.op != "get_attr" or reads(gm, part) > 1 for part in parts):
        return False
    padding = arguments(layer.node).get("padding", 0)
    plain = not any([padding] if isinstance(padding, int) else padding)
    return not shifts or (plain and not layer.transposed)


def _take(editor: Editor, layer: Weighted, factor: Tensor, offset: Tensor) -> None:
    """Let a layer scale and shift its input channels itself."""
    name, layout = str(layer.weight.target), (layer.output_axis, layer.groups)
    old = attribute(editor.gm, name).detach()
    weight = outputs_first(old.double(), *layout)
    outputs, per_group, *kernel = weight.shape
    grouped = weight.reshape(layer.groups, outputs // layer.groups, per_group, -1)
    shape = (layer.groups, 1, per_group, 1)
    added = (grouped * offset.reshape(shape)).sum((2, 3)).reshape(-1)
    scaled = (grouped * factor.reshape(shape)).reshape(outputs, per_group, *kernel)
    editor.set_tensor(name, torch.nn.Parameter(own_layout(scaled.to(old.dtype), *layout)))
    if not bool(added.any()):
        return
    bias_name = editor.free_name(_sibling(name, "bias"))
    if layer.bias is not None:
        bias_name = str(layer.bias.target)
        added = added + attribute(editor.gm, bias_name).detach().double()
    layer.bias = editor.parameter(bias_name, added.to(old.dtype), before=layer.node)


@dataclass(frozen=True)
class FoldBatchNorm(Pass, name="fold-batch-norm", requires={CORE_FORM}):
    """Fold every batch norm that directly follows a layer which nothing else reads.

    arithmetic_only: leave batch norms alone, whose statistics training is to move on.
    """

    arithmetic_only: bool = False

    def __post_init__(self) -> None:
        require_kind("arithmetic_only", self.arithmetic_only, bool, "True or False")

    def apply(self, gm: GraphModule, ctx: PassContext) -> bool:
        if self.arithmetic_only:
            return apply_rules((LayerThenArithmetic(),), self, gm, ctx)
        rules = (LayerThenBatchNorm(), AffineThenLayers(), AffineThenAffine())
        changed = apply_rules(rules, self, gm, ctx)
        for node in gm.graph.nodes:
            norm = BatchNorm.of(node)
            if norm is not None and weighted(norm.input) is None:  # a layer has told its reason
                ctx.decline(node, f"batch norm follows {label(norm.input)}, which has no weight")
        return changed


def why_apart(gm: GraphModule, layer: Weighted, node: Node) -> str | None:
    """Why what scales and shifts the channels of a layer cannot be folded into it, if it cannot."""
    norm = BatchNorm.of(node)
    if len(layer.node.users) > 1:
        return f"{label(layer.node)} is read by {len(layer.node.users)} nodes"
    if norm is not None and (norm.running_mean is None or norm.running_var is None):
        return "batch norm keeps no running statistics"
    if norm is not None and norm.training:
        return "batch norm is in training mode"
    affine = ChannelAffine.of(node)
    if affine is None:
        return "a parameter of batch norm is computed"
    if affine.input is layer.node and affine.axis != output_channel_axis(layer):
        return f"the channels of {label(layer.node)} are on another axis than batch norm's"
    for part in (layer.weight, layer.bias):
        if part is None:
            continue
        real = unrounded(part)
        if real.op != "get_attr":
            return computed(part)
        if (readers := reads(gm, real) - _rounded_for(real)) > 1:
            return f"{real.target!r} is shared by {readers} nodes"
    return None


def _rounded_for(bias: Node) -> int:
    """How many batch norms read the bias of their layer, to round what folding makes of both."""
    return sum(n.target is qpc_ops.round_bias.default and n.args[0] is not bias for n in bias.users)


def foldable_norms(gm: GraphModule) -> dict[Node, Node]:
    """The batch norms that could be folded, each with its layer."""
    found: dict[Node, Node] = {}
    for node in gm.graph.nodes:
        norm = BatchNorm.of(node)
        layer = weighted(norm.input) if norm is not None else None
        if layer is not None and why_apart(gm, layer, node) is None:
            found[node] = layer.node
    return found


def norm_beside(layer: Node) -> BatchNorm | None:
    """The batch norm that is part of a quantized layer, and is folded at its conversion, if any."""
    (reader, *others) = layer.users or (None,)
    norm = None if others else BatchNorm.of(reader)
    if norm is None or not info(layer).integer or weighted(layer) is None:
        return None
    return norm if info(norm.node).integer else None


def _along_outputs(factor: Tensor, weight: Tensor, layer: Weighted) -> Tensor:
    """`factor[out]` shaped so that it multiplies `weight` by output channel."""
    trailing = [1] * (weight.dim() - 2)
    if layer.output_axis == 0:
        return factor.reshape(-1, 1, *trailing)
    # weight[in, out/groups, ...]: input rows of group g make the outputs g * out/groups onwards
    per_group = weight.shape[1]
    groups = factor.numel() // per_group
    rows = factor.reshape(groups, per_group).repeat_interleave(weight.shape[0] // groups, dim=0)
    return rows.reshape(weight.shape[0], per_group, *trailing)


def _fold_grid(
    editor: Editor, layer: Weighted, weight: Tensor, scaled: Tensor, factor: Tensor
) -> Tensor:
    """Give the rounding of a weight the scales of the folded one, which is returned.

    weight: as it is rounded now; scaled: times the factors, in exact arithmetic.
    """
    rounding, gm = layer.weight, editor.gm
    points = rounding_of(gm, rounding).points(weight)
    given = arguments(rounding)
    step = given["scale"]
    if step.target is qpc_ops.unfold_step.default:
        set_arguments(rounding, scale=arguments(step)["step"])
    else:
        name = str(step.target)
        steps = attribute(gm, name)
        exact = steps.detach().double().abs() * factor.abs()
        folded = exact.clamp(SMALLEST_SCALE, LARGEST_SCALE).float()
        learned = isinstance(steps, torch.nn.Parameter)
        editor.set_tensor(name, torch.nn.Parameter(folded) if learned else folded)
    wanted = points * _along_outputs(factor.sign().float(), weight, layer)
    after = rounding_of(gm, rounding)
    # a product in the middle between two points may have been rounded to the other one
    return torch.where(after.points(scaled) == wanted, scaled, wanted * after.steps(weight))


def _rounded_again(editor: Editor, layer: Weighted, before: Node) -> Node:
    """The bias of a layer, rounded as that of the batch norm was."""
    assert layer.bias is not None
    scales = (arguments(before)["input_scale"], arguments(layer.weight)["scale"])
    read = [editor.get(str(scale.target), before=layer.node) for scale in scales]
    return editor.call(qpc_ops.round_bias.default, layer.bias, *read, like=layer.node)


def _sibling(name: str, leaf: str) -> str:
    owner, _, _ = name.rpartition(".")
    return f"{owner}.{leaf}" if owner else leaf

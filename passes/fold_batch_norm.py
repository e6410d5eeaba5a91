"""Fold inference-time batch normalisation into the convolution or linear layer that feeds it.

Before:  x -> conv(W, b) -> batch_norm(gamma, beta, mean, var) -> y
After:   x -> conv(W', b') -> y, with f = gamma / sqrt(var + eps)
         W' = W * f along the output channels,  b' = (b - mean) * f + beta
Keeps:   the output, up to float rounding
Leaves:  a layer or weight that is read elsewhere too; batch norms without running statistics;
         batch norms behind anything else, such as a concat
Cost:    one walk over the graph

Arithmetic with a constant for each channel, such as a batch norm that is spelled out, is folded
likewise. Where there is no layer to fold it into, operators of this kind that follow one another
become one batch norm.

Works for convolutions of one to three dimensions, transposed ones (any groups), and linear layers,
with and without bias. The algebra is computed in float64. Jacob et al. 2018, arXiv:1712.05877,
section 3.2.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from qpc.analysis.origins import computed
from qpc.base import Pass, PassContext
from qpc.calls import aten
from qpc.edit import Editor, reads
from qpc.facts import CORE_FORM
from qpc.layers import Weighted, weighted
from qpc.meta import attribute, info, label, update_info, value_name
from qpc.ops.affine import BatchNorm, ChannelAffine
from qpc.rewrite import Rule, apply_rules


@dataclass(frozen=True)
class _Found:
    layer: Weighted
    node: Node


@dataclass(frozen=True)
class LayerThenBatchNorm(Rule[_Found]):
    """A batch norm whose input is a convolution or linear layer."""

    def match(self, gm: GraphModule, node: Node) -> _Found | None:
        norm = BatchNorm.of(node) or ChannelAffine.of(node)
        if norm is None:
            return None
        layer = weighted(norm.input)
        return _Found(layer, node) if layer is not None else None

    def refuse(self, gm: GraphModule, found: _Found) -> str | None:
        layer, norm = found.layer, BatchNorm.of(found.node)
        if len(layer.node.users) > 1:
            return f"{label(layer.node)} is read by {len(layer.node.users)} nodes"
        if norm is not None and (norm.running_mean is None or norm.running_var is None):
            return "batch norm keeps no running statistics"
        if norm is not None and norm.training:
            return "batch norm is in training mode"
        if len(info(layer.node).shape or ()) != len(info(layer.weight).shape or ()):
            return f"the channels of {label(layer.node)} are on another axis than batch norm's"
        if ChannelAffine.of(found.node) is None:
            return "a parameter of batch norm is computed"
        for part in (layer.weight, layer.bias):
            if part is None:
                continue
            if part.op != "get_attr":
                return computed(part)
            if reads(gm, part) > 1:
                return f"{part.target!r} is shared by {reads(gm, part)} nodes"
        return None

    def replace(self, editor: Editor, found: _Found) -> str:
        layer, affine = found.layer, ChannelAffine.of(found.node)
        assert affine is not None
        weight_name = str(layer.weight.target)
        weight = attribute(editor.gm, weight_name).detach()
        factor, offset = affine.coefficients(editor.gm)
        bias = torch.zeros_like(factor)
        if layer.bias is not None:
            bias = attribute(editor.gm, str(layer.bias.target)).detach().double()
        scaled = weight.double() * _along_outputs(factor, weight, layer)
        editor.set_tensor(weight_name, torch.nn.Parameter(scaled.to(weight.dtype)))
        bias_name = (
            str(layer.bias.target)
            if layer.bias is not None
            else editor.free_name(_sibling(weight_name, "bias"))
        )
        folded = (bias * factor + offset).to(weight.dtype)
        layer.bias = editor.parameter(bias_name, folded, before=layer.node)
        text = f"folded into {label(layer.node)}"
        update_info(layer.node, value=value_name(found.node) or "")
        editor.replace(found.node, layer.node)
        return text


@dataclass(frozen=True)
class AffineThenAffine(Rule[tuple[ChannelAffine, ChannelAffine]]):
    """Two operators that scale and shift each channel, the first of which nothing else reads."""

    def match(self, gm: GraphModule, node: Node) -> tuple[ChannelAffine, ChannelAffine] | None:
        second = ChannelAffine.of(node)
        first = ChannelAffine.of(second.input) if second is not None else None
        if first is None or second is None or len(first.node.users) > 1:
            return None
        return first, second

    def replace(self, editor: Editor, found: tuple[ChannelAffine, ChannelAffine]) -> str:
        first, second = found
        (a, b), (c, d) = (each.coefficients(editor.gm) for each in found)
        factor, offset = a * c, b * c + d
        name = editor.free_name(f"{first.node.name}_{second.node.name}")
        values = {"weight": factor, "bias": offset}
        state = {"running_mean": torch.zeros_like(a), "running_var": torch.ones_like(a)}
        before = second.node
        norm = editor.call(
            aten.batch_norm.default,
            first.input,
            *[editor.parameter(f"{name}.{k}", v.float(), before=before) for k, v in values.items()],
            *[editor.buffer(f"{name}.{k}", v.float(), before=before) for k, v in state.items()],
            False,
            0.0,
            0.0,
            False,
            like=before,
        )
        editor.replace(before, norm)
        return f"joined with {label(first.node)}"


@dataclass(frozen=True)
class FoldBatchNorm(Pass, name="fold-batch-norm", requires={CORE_FORM}):
    """Fold every batch norm that directly follows a layer which nothing else reads."""

    def apply(self, gm: GraphModule, ctx: PassContext) -> bool:
        changed = apply_rules((LayerThenBatchNorm(), AffineThenAffine()), self, gm, ctx)
        for node in gm.graph.nodes:
            norm = BatchNorm.of(node)
            if norm is not None and weighted(norm.input) is None:
                ctx.decline(node, f"batch norm follows {label(norm.input)}, which has no weight")
        return changed


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


def _sibling(name: str, leaf: str) -> str:
    owner, _, _ = name.rpartition(".")
    return f"{owner}.{leaf}" if owner else leaf

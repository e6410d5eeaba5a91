"""Round the biases of layers as their integers will be.

Before:  x -> fake_quantize(scale) -> conv2d(fake_quantize(W, scales), b)
After:   x -> fake_quantize(scale) -> conv2d(fake_quantize(W, scales), round_bias(b, scale, scales))
Keeps:   the output, up to half a step of the sums of each layer, which is far below a step of the
         values at 8 bits, and is not at 4
Leaves:  layers without a bias, in float, or whose bias is rounded already
Cost:    one walk over the graph

An integer layer adds its bias to sums of products, so that a bias is a multiple of the scale of its
input times that of its weights. Both may be learned: the bias is rounded anew at every step, and
its gradient passes as if it were not. Where a batch norm is to be folded later, its bias is changed
so that the bias that folding makes is such a multiple. Jacob et al. 2018, arXiv:1712.05877, section
2.4.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.fx import GraphModule, Node

from qpc.analysis.roundings import grid_tensor
from qpc.base import Pass, PassContext
from qpc.calls import arguments, qpc_ops
from qpc.edit import Editor
from qpc.facts import FAKE_QUANTIZED
from qpc.layers import Weighted, float_layer
from qpc.meta import attribute, info
from qpc.ops.affine import BatchNorm
from qpc.passes.fold_batch_norm import norm_beside


@dataclass(frozen=True)
class RoundBiases(Pass, name="round-biases", requires={FAKE_QUANTIZED}):
    """Round the bias of every layer that is to become an integer layer."""

    def apply(self, gm: GraphModule, ctx: PassContext) -> bool:
        editor = Editor(gm, self.name)
        scales = {
            observer: str(grid_tensor(node, "scale").target)
            for node in gm.graph.find_nodes(
                op="call_function", target=qpc_ops.fake_quantize.default
            )
            if (observer := info(node).observer)
        }
        layers = [layer for n in gm.graph.nodes if info(n).integer and (layer := float_layer(n))]
        count = 0
        for layer in layers:
            norm = norm_beside(layer.node)
            part = layer.bias if norm is None else norm.bias
            if (part is None and norm is None) or (part is not None and part.op != "get_attr"):
                continue
            scale = scales[info(layer.input).observer or ""]
            if norm is None:
                layer.bias = _rounded(editor, layer, scale)
            else:
                _round_of_norm(editor, layer, norm, scale)
            count += 1
        ctx.summarize(f"{count} biases are rounded")
        return bool(count)


def _rounded(editor: Editor, layer: Weighted, scale: str) -> Node:
    node = layer.node
    weight_scale = arguments(layer.weight)["scale"]
    return editor.call(
        qpc_ops.round_bias.default,
        layer.bias,
        editor.get(scale, before=node),
        editor.get(str(weight_scale.target), before=node),
        like=node,
    )


def _round_of_norm(editor: Editor, layer: Weighted, norm: BatchNorm, scale: str) -> None:
    """Let a batch norm add what makes a rounded bias of the layer it is folded into."""
    node = norm.node
    assert norm.running_var is not None
    channels = attribute(editor.gm, str(norm.running_var.target)).shape
    if norm.weight is None:
        name = editor.free_name(f"quantizers.{node.name}_weight")
        norm.weight = editor.buffer(name, torch.ones(channels), before=node)
    if norm.bias is None:
        name = editor.free_name(f"quantizers.{node.name}_bias")
        norm.bias = editor.buffer(name, torch.zeros(channels), before=node)
    norm.bias = editor.call(
        qpc_ops.round_bias.default,
        norm.bias,
        editor.get(scale, before=node),
        arguments(layer.weight)["scale"],
        layer.bias,
        norm.weight,
        norm.running_mean,
        norm.running_var,
        norm.eps,
        like=node,
    )

"""Correct each layer's bias by the mean error that its rounded weights make.

Before:  conv2d(x, fake_quantize(W), b), whose outputs are off by e[c] on average
After:   conv2d(x, fake_quantize(W), b - e)
Keeps:   the output, up to the error that is corrected
Leaves:  layers in float; layers whose bias is shared
Cost:    two forward passes on the samples, whose activations are held in memory

Rounding the weights of a layer shifts the mean of its output channels, and the shifts add up from
layer to layer. The pass walks through the graph once with the samples, in float and with rounded
weights side by side, and corrects each layer before the next one is looked at. Activations are not
rounded here, since the errors of clipping are not the weights' to mend. Nagel et al. 2019,
arXiv:1906.04721, section 4.2, with means measured on samples as in its appendix D.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from qpc.base import Pass, PassContext
from qpc.batches import Batch, batch_length, inputs_of
from qpc.calls import qpc_ops
from qpc.edit import Editor, reads
from qpc.errors import CalibrationError
from qpc.facts import FAKE_QUANTIZED
from qpc.layers import Weighted, float_layer
from qpc.meta import attribute, info
from qpc.settings import require_count
from qpc.types import BatchDim


@dataclass(frozen=True)
class CorrectBias(Pass, name="correct-bias", requires={FAKE_QUANTIZED}):
    """Measure the mean errors on `batches` and correct them.

    batches: as `Calibrate` takes them; the first ones that make up `samples` are used.
    samples: how many samples to use at most; a few dozen suffice for a mean.
    """

    batches: Iterable[Batch] = field(repr=False)
    samples: int = 32

    def __post_init__(self) -> None:
        require_count("samples", self.samples)

    def apply(self, gm: GraphModule, ctx: PassContext) -> bool:
        walk = _SideBySide(gm, self._samples(gm))
        editor = Editor(gm, self.name)
        count = 0
        with torch.no_grad():
            for node in list(gm.graph.nodes):
                walk.step(node)
                layer = float_layer(node)
                if layer is None or not info(node).integer:
                    continue
                if layer.bias is not None and reads(gm, layer.bias) > 1:
                    ctx.decline(node, f"{layer.bias.target!r} is shared")
                    continue
                _shift(editor, layer, walk.correct(node, layer.channel_axis))
                count += 1
        ctx.summarize(f"{count} biases corrected on {walk.samples} samples")
        return count > 0

    def _samples(self, gm: GraphModule) -> list[list[Tensor]]:
        """The first samples as one batch, or in the batches given if those cannot be joined."""
        placeholders = [n for n in gm.graph.nodes if n.op == "placeholder"]
        gathered: list[list[Tensor]] = []
        found = 0
        for number, batch in enumerate(self.batches):
            gathered.append(inputs_of(gm, batch, number))
            found += batch_length(gathered[-1])
            if found >= self.samples:
                break
        if not gathered:
            raise CalibrationError(
                "there are no batches to correct biases on",
                fix="pass a list; a generator that calibration has used up is empty",
            )
        if any((info(n).shape or (None,))[0] != BatchDim() for n in placeholders):
            return gathered
        return [[torch.cat(tensors)[: self.samples] for tensors in zip(*gathered, strict=True)]]


class _SideBySide:
    """Runs a fake-quantized graph as it was in float, and with rounded weights only.

    `_real[node][i]` and `_rounded[node][i]` are a node's values for batch i. The two are one tensor
    as long as nothing has been rounded on the way to it.
    """

    def __init__(self, gm: GraphModule, batches: Sequence[Sequence[Tensor]]) -> None:
        self._gm = gm
        placeholders = [n for n in gm.graph.nodes if n.op == "placeholder"]
        self._real: dict[Node, list[Any]] = {
            node: list(values)
            for node, values in zip(placeholders, zip(*batches, strict=True), strict=True)
        }
        self._rounded = dict(self._real)
        self._readers_left = {node: len(node.users) for node in gm.graph.nodes}
        self._batches = range(len(batches))
        self.samples = sum(map(batch_length, batches))

    def step(self, node: Node) -> None:
        """Evaluate one node; nodes come in graph order."""
        if node.op == "get_attr":
            value = attribute(self._gm, str(node.target)).detach()
            self._real[node] = self._rounded[node] = [value for _ in self._batches]
        elif node.op == "call_function":
            rounds = node.target is qpc_ops.fake_quantize.default
            source = node.all_input_nodes[0]
            of_weight = rounds and source.op == "get_attr"
            self._real[node] = self._real[source] if rounds else self._calls(node, self._real)
            if rounds and not of_weight:
                self._rounded[node] = self._rounded[source]
            else:
                self._rounded[node] = self._calls(node, self._rounded)
        for source in node.all_input_nodes:
            self._readers_left[source] -= 1
            if not self._readers_left[source]:
                del self._real[source], self._rounded[source]

    def correct(self, node: Node, axis: int) -> Tensor:
        """Take the mean error of each channel out of a node's rounded values, and return it."""
        pairs = zip(self._real[node], self._rounded[node], strict=True)
        errors = [rounded.double() - real.double() for real, rounded in pairs]
        rank = errors[0].dim()
        others = [d for d in range(rank) if d != axis % rank]
        count = sum(e.numel() for e in errors) / errors[0].shape[axis]
        mean = sum(e.sum(others, keepdim=True) if others else e for e in errors) / count
        assert isinstance(mean, Tensor)
        self._rounded[node] = [value - mean.to(value.dtype) for value in self._rounded[node]]
        return mean.flatten()

    def _calls(self, node: Node, values: Mapping[Node, list[Any]]) -> list[Any]:
        return [_call(node, {n: values[n][i] for n in node.all_input_nodes}) for i in self._batches]


def _call(node: Node, values: Mapping[Node, Any]) -> object:
    assert callable(node.target)
    result: object = node.target(
        *map_arg(node.args, values.__getitem__), **map_arg(node.kwargs, values.__getitem__)
    )
    return result


def _shift(editor: Editor, layer: Weighted, error: Tensor) -> None:
    """Subtract `error[out]` from the layer's bias, which is made if there is none."""
    if layer.bias is not None:
        name = str(layer.bias.target)
        old = attribute(editor.gm, name).detach()
        editor.set_tensor(name, torch.nn.Parameter((old.double() - error).to(old.dtype)))
        return
    weight = str(layer.weight.all_input_nodes[0].target)
    owner, _, _ = weight.rpartition(".")
    name = editor.free_name(f"{owner}.bias" if owner else "bias")
    layer.bias = editor.parameter(name, -error.float(), before=layer.node)

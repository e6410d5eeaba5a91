"""Correct each layer's bias by the mean error that its rounded weights make.

Before:  conv2d(x, fake_quantize(W), b), whose outputs are off by e[c] on average
After:   conv2d(x, fake_quantize(W), b - e)
Keeps:   the output, up to the error that is corrected
Leaves:  layers in float; layers whose bias is shared; zeros that a linear layer makes of zeros
Cost:    two forward passes on the samples, one if `means` are known; with `full` four times that

Rounding the weights of a layer shifts the mean of its output channels, and the shifts add up from
layer to layer. The pass walks through the graph once with the samples, in float and with rounded
weights side by side, and corrects each layer before the next one is looked at. Activations are not
rounded here, since the errors of clipping are not the weights' to mend. Nagel et al. 2019,
arXiv:1906.04721, section 4.2, with means measured on samples as in its appendix D.

With `full` activations are rounded too, so that means are those of the quantized graph. Where
clipping shifts them that is worth more; where it does not, it is noise. So the outputs decide: of
no correction, the one above and the full one, that is made on all samples which leaves the least
error in a quarter of them that it has not seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from qpc.analysis.batch_parts import in_parts, samples_at_a_time
from qpc.analysis.channel_means import ChannelMeans, channel_means
from qpc.analysis.side_by_side import (
    SideBySide,
    decibels,
    first_samples,
    held_out,
    output_error,
    require_reference,
)
from qpc.analysis.zero_rows import but_zeros
from qpc.base import Pass, PassContext
from qpc.batches import Batch, batch_length
from qpc.edit import Editor, reads_by_name
from qpc.facts import FAKE_QUANTIZED
from qpc.layers import Weighted, float_layer
from qpc.meta import attribute, copied, info
from qpc.settings import require_count, require_kind


@dataclass(frozen=True)
class CorrectBias(Pass, name="correct-bias", requires={FAKE_QUANTIZED}):
    """Measure the mean errors on `batches` and correct them.

    batches: as `Calibrate` takes them; the first ones that make up `samples` are used.
    samples: how many samples to use at most; a few dozen suffice for a mean.
    full: also look at means with activations rounded, and keep whichever correction is best.
    reference: the graph in float whose means are aimed at; by default this graph's own weights, as
    they are before they are rounded. Needed behind passes that choose how weights are rounded.
    means: those that `Calibrate(batches, means)` has taken down of this graph in float, on the same
    samples; then the float side need not be evaluated again. Without `full` and `reference`.
    """

    batches: Iterable[Batch] = field(repr=False)
    samples: int = 32
    full: bool = False
    reference: GraphModule | None = field(default=None, repr=False, compare=False)
    means: ChannelMeans | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        require_count("samples", self.samples)
        require_kind("full", self.full, bool, "True or False")

    def apply(self, gm: GraphModule, ctx: PassContext) -> bool:
        require_reference(gm, self.reference, self.name)
        layers = self._layers(gm, ctx)
        if not layers:
            ctx.summarize("there are no biases to correct")
            return False
        batches = first_samples(gm, self.batches, self.samples, "correct biases")
        activations, said = self._chosen(gm, batches, ctx) if self.full else (False, "")
        if activations is None:
            ctx.summarize(f"no correction of {len(layers)} biases lessens the error{said}")
            return False
        self._correct(gm, self._parts(gm, batches), ctx, activations=activations)
        samples = sum(map(batch_length, batches))
        ctx.summarize(f"{len(layers)} biases corrected on {samples} samples{said}")
        return True

    def _layers(self, gm: GraphModule, ctx: PassContext | None = None) -> list[Weighted]:
        """The layers whose biases may be corrected; the others are declined."""
        found, reads = [], reads_by_name(gm)
        for node in gm.graph.nodes:
            layer = float_layer(node)
            if layer is None or not info(node).integer:
                continue
            if layer.bias is not None and reads.get(str(layer.bias.target), 1) > 1:
                if ctx is not None:
                    ctx.decline(node, f"{layer.bias.target!r} is shared")
                continue
            found.append(layer)
        return found

    def _correct(
        self,
        gm: GraphModule,
        batches: Sequence[Sequence[Tensor]],
        ctx: PassContext,
        *,
        activations: bool,
    ) -> None:
        layers: dict[Node, Weighted] = {layer.node: layer for layer in self._layers(gm)}
        means = self.means
        if activations or not self._knows(layers):
            means = None
        walk = SideBySide(gm, batches, self.reference, activations=activations, real=means is None)
        editor = Editor(gm, self.name)
        with torch.no_grad():
            for node in ctx.each(list(gm.graph.nodes), "correcting biases"):
                walk.evaluate(node)
                if node in layers:
                    axis = layers[node].channel_axis
                    wanted = means.of(node.name) if means else channel_means(walk.real[node], axis)
                    error = channel_means(walk.rounded[node], axis) - wanted
                    read = walk.rounded[layers[node].input]
                    error = but_zeros(error, gm, layers[node], read)
                    _shift(editor, layers[node], error)
                    walk.shift(node, axis, error)
                walk.release(node)

    def _knows(self, layers: Iterable[Node]) -> bool:
        """Whether the means of the float side have been taken down."""
        if self.means is None or self.reference is not None:
            return False
        return self.means.covers((node.name for node in layers), self.samples)

    def _parts(self, gm: GraphModule, batches: list[list[Tensor]]) -> list[list[Tensor]]:
        """The batches in parts that are quick to evaluate."""
        samples = samples_at_a_time(gm) if len(batches) == 1 else None
        return [part for batch in batches for part in in_parts(batch, samples)]

    def _chosen(
        self, gm: GraphModule, batches: list[list[Tensor]], ctx: PassContext
    ) -> tuple[bool | None, str]:
        """Whether to correct with activations rounded, or not at all (None), and the reason."""
        learned, judged = held_out(batches)
        errors: dict[bool | None, float] = {}
        for activations in (False, None, True):
            trial = gm
            if activations is not None:
                trial = copied(gm)
                self._correct(trial, learned, ctx, activations=activations)
            errors[activations] = output_error(trial, judged, self.reference)
        names: dict[bool | None, str] = {False: "fast", None: "without", True: "full"}
        said = ", ".join(f"{names[key]} {decibels(error):.2f} dB" for key, error in errors.items())
        return min(errors, key=lambda key: errors[key]), f" ({said})"


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

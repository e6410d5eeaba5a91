"""The layers of a fake-quantized graph in turn: what each reads, what it should make, its weights.

Each layer is shown with the rounded values that reach it and the float values that it should make
of them, may be given other weights, scales and biases, and the next layers read what it then makes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from qpc.analysis.layer_rows import Rows, layer_rows
from qpc.analysis.side_by_side import SideBySide, first_samples, require_reference
from qpc.analysis.zero_rows import but_zeros
from qpc.base import Pass, PassContext
from qpc.batches import Batch
from qpc.calls import arguments, aten, qpc_ops
from qpc.edit import Editor, reads
from qpc.layers import Weighted, float_layer, outputs_first, own_layout
from qpc.meta import attribute, info, label
from qpc.quant.fixedpoint import along, floor_scales_for_bias
from qpc.quant.pairs import safe_points
from qpc.quant.weight_points import nearest_points, output_errors


@dataclass(frozen=True)
class Turn:
    """One layer, whose turn it is.

    layer: its view; its weight is fake-quantized.
    """

    layer: Weighted
    editor: Editor
    walk: SideBySide

    @property
    def node(self) -> Node:
        return self.layer.node

    @property
    def bits(self) -> int:
        """Of its weights."""
        config = info(self.node).config
        assert config is not None
        return config.weight.bits

    @property
    def limit(self) -> int:
        """The largest integer weight."""
        return int(arguments(self.layer.weight)["hi"])

    @property
    def weight(self) -> Tensor:
        """The float weight as it is now, float32[out, in/groups, *kernel]."""
        return self._outputs_first(self._tensor("x"))

    @property
    def scales(self) -> Tensor:
        """The scales of the weight, float32[out], or [1] for the whole tensor."""
        return self._tensor("scale")

    def safe(self, points: Tensor, places: Tensor) -> Tensor:
        """Points of the weight, float32, in any shape, with pairs made safe if they must be.

        places: the weight in units of its scales, in the same shape.
        """
        if not arguments(self.layer.weight)["safe_pairs"]:
            return points
        shape = self.weight.shape
        return safe_points(points.reshape(shape), places.reshape(shape)).reshape(points.shape)

    @property
    def bias(self) -> Tensor:
        """The bias, float32[out]; zeros if there is none."""
        if self.layer.bias is None:
            return torch.zeros(self.weight.shape[0])
        return attribute(self.editor.gm, str(self.layer.bias.target)).detach()

    @property
    def clamp(self) -> tuple[float, float] | None:
        """The bounds of the ReLU or other clamp that alone reads the layer; None if none does."""
        users = list(self.node.users)
        if len(users) != 1:
            return None
        given = users[0]
        if given.target is aten.relu.default:
            return 0.0, torch.inf
        if given.target is not aten.clamp.default:
            return None
        ends = arguments(given)
        lo, hi = ends["min"], ends["max"]
        if isinstance(lo, Node) or isinstance(hi, Node):
            return None
        return -torch.inf if lo is None else float(lo), torch.inf if hi is None else float(hi)

    @property
    def shared_bias(self) -> bool:
        """Whether the bias has other readers, so that it must not change."""
        return self.layer.bias is not None and reads(self.editor.gm, self.layer.bias) > 1

    def rows(self, most: int) -> Rows:
        """What the layer multiplies with its weights, and what it should make, at some places."""
        walk = self.walk
        return layer_rows(self.layer, walk.rounded[self.layer.input], walk.real[self.node], most)

    def mean_error(self) -> Tensor:
        """The mean of the rounded outputs less that of the float ones, float64[out]."""
        return mean_difference(
            self.walk.rounded[self.node], self.walk.real[self.node], self.layer.channel_axis
        )

    def set_scales(self, scales: Tensor) -> None:
        """Give the weight other scales, raised where the bias needs it."""
        self._store_scales(self._raised(scales, self.bias))

    def set_points(self, points: Tensor, scales: Tensor | None = None) -> None:
        """Give the layer integer weights: `points` [out, in/groups, *kernel], on `scales`.

        A channel whose scale must be raised for its bias is rounded to nearest instead.
        """
        wanted = self.scales if scales is None else scales
        given = self._raised(wanted, self.bias)
        dims = points.dim()
        weight = points.to(torch.float32) * along(given, dims, 0)
        raised = along(given != wanted, dims, 0)
        exact = points.to(torch.float32) * along(wanted, dims, 0)
        weight = torch.where(raised, exact, weight)
        name = str(arguments(self.layer.weight)["x"].target)
        layout = own_layout(weight, self.layer.output_axis, self.layer.groups)
        self._overwrite(name, layout.contiguous())
        self._store_scales(given)

    def set_bias(self, bias: Tensor) -> None:
        """Give the layer another bias (any float dtype, [out]); it gets one if it had none."""
        value = bias.to(torch.float32)
        if self.layer.bias is not None:
            self._overwrite(str(self.layer.bias.target), value)
        else:
            weight = str(arguments(self.layer.weight)["x"].target)
            owner, _, _ = weight.rpartition(".")
            name = self.editor.free_name(f"{owner}.bias" if owner else "bias")
            self.layer.bias = self.editor.parameter(name, value, before=self.node)
        self._store_scales(self._raised(self.scales, value))

    def update(self) -> None:
        """Let the layer's rounded outputs be those of its present parameters."""
        self.walk.evaluate_again(self.node)

    def correct_bias(self) -> None:
        """Take the mean error out of the bias, unless that is shared; `update` comes before."""
        if not self.shared_bias:
            read = self.walk.rounded[self.layer.input]
            error = but_zeros(self.mean_error(), self.editor.gm, self.layer, read)
            self.set_bias(self.bias.double() - error)
            self.update()

    def _tensor(self, argument: str) -> Tensor:
        given = arguments(self.layer.weight)[argument]
        return attribute(self.editor.gm, str(given.target)).detach()

    def _outputs_first(self, weight: Tensor) -> Tensor:
        return outputs_first(weight, self.layer.output_axis, self.layer.groups)

    def _raised(self, scales: Tensor, bias: Tensor) -> Tensor:
        source = info(self.layer.input).qparams
        assert source is not None
        return floor_scales_for_bias(scales, bias, source.scale)

    def _store_scales(self, scales: Tensor) -> None:
        self._overwrite(str(arguments(self.layer.weight)["scale"].target), scales)

    def _overwrite(self, name: str, value: Tensor) -> None:
        old = attribute(self.editor.gm, name)
        if isinstance(old, nn.Parameter):
            value = nn.Parameter(value, requires_grad=old.requires_grad)
        self.editor.set_tensor(name, value)


def mean_difference(made: Sequence[Tensor], wanted: Sequence[Tensor], axis: int) -> Tensor:
    """The mean of `made` less that of `wanted` for each channel, float64, over all batches."""
    axis = axis % made[0].dim()
    others = [d for d in range(made[0].dim()) if d != axis]
    total = torch.zeros(made[0].shape[axis], dtype=torch.float64)
    for a, b in zip(made, wanted, strict=True):
        total += (a - b).sum(others, dtype=torch.float64) if others else (a - b).double()
    count = sum(a.numel() for a in made) // max(len(total), 1)
    return total / max(count, 1)


@dataclass(frozen=True)
class Samples:
    """What layers are looked at with.

    batches: as `Calibrate` takes them; the first ones that make up `samples` are used.
    reference: the graph in float whose outputs are aimed at; the graph itself if None.
    purpose: what that is for, as errors say it.
    """

    batches: Iterable[Batch]
    samples: int
    reference: GraphModule | None
    purpose: str


def layers_in_turn(
    pass_: Pass,
    gm: GraphModule,
    ctx: PassContext,
    given: Samples,
    *,
    wanted: Callable[[Turn], str | None] = lambda turn: None,
    activations: bool = True,
) -> Iterator[Turn]:
    """Every layer that becomes integer and owns its weight, in the order of the graph.

    wanted: why a layer is to be left alone, in words; None if it is not. What is left alone for
    that or another reason is declined. activations: whether what reaches a layer has been rounded
    to the grids of activations too.
    """
    require_reference(gm, given.reference, pass_.name)
    nodes: Sequence[Node] = list(gm.graph.nodes)
    if not any(info(n).integer and float_layer(n) is not None for n in nodes):
        return  # then no samples are needed either
    batches = first_samples(gm, given.batches, given.samples, given.purpose)
    walk = SideBySide(gm, batches, given.reference, activations=activations)
    editor = Editor(gm, pass_.name)
    for node in ctx.each(nodes, given.purpose):
        with torch.no_grad():
            walk.evaluate(node)
        layer = float_layer(node)
        if layer is not None and info(node).integer:
            turn = Turn(layer, editor, walk)
            if (why := _refusal(gm, layer) or wanted(turn)) is not None:
                ctx.decline(node, why)
            else:
                yield turn
        walk.release(node)


def _refusal(gm: GraphModule, layer: Weighted) -> str | None:
    """Why a layer must keep its weights."""
    if layer.weight.target is not qpc_ops.fake_quantize.default:
        return f"its weight {label(layer.weight)} is not rounded to a grid"
    given = arguments(layer.weight)
    if isinstance(attribute(gm, str(given["scale"].target)), nn.Parameter):
        return "training moves its grid"
    if reads(gm, given["x"]) > 1:
        return f"{given['x'].target!r} is shared"
    if attribute(gm, str(given["x"].target)).numel() == 0:
        return f"{given['x'].target!r} is empty"
    return None


def above_bits(bits: int) -> Callable[[Turn], str | None]:
    """What refuses layers whose weights have more bits than that."""

    def refuse(turn: Turn) -> str | None:
        return f"its weights have {turn.bits} bits" if turn.bits > bits else None

    return refuse


def round_layers(
    turns: Iterable[Turn],
    ctx: PassContext,
    most: int,
    choose: Callable[[Turn, Rows, Tensor], Tensor],
) -> bool:
    """Round the weights of layers as `choose` says, and correct their biases; whether any changed.

    choose: points for a turn, at most `most` rows of it, and its scales so that they broadcast over
    a weight of groups. Channels for which rounding to nearest is better are rounded so.
    """
    layers = 0
    for turn in turns:
        rows = turn.rows(most)
        weight, scales = rows.grouped(turn.weight), turn.scales
        shape = (*weight.shape[:2], 1) if scales.numel() > 1 else (1, 1, 1)
        steps = scales.reshape(shape)
        places = weight / steps
        nearest = turn.safe(nearest_points(weight, steps, turn.limit), places)
        chosen = turn.safe(choose(turn, rows, steps), places)
        before, after = (
            output_errors(points, steps, rows.inputs, rows.targets) for points in (nearest, chosen)
        )
        better = after < before
        turn.set_points(torch.where(better[..., None], chosen, nearest).reshape(turn.weight.shape))
        turn.update()
        turn.correct_bias()
        left = torch.where(better, after, before).sum() / before.sum().clamp(min=1e-30)
        ctx.change(turn.node, f"{float(left):.0%} of the error of rounding to nearest")
        layers += 1
    ctx.summarize(f"{layers} layers rounded")
    return layers > 0

"""The equality oracle of pruning: the dense graph with the removed channels forced to zero.

Every value is computed by the dense operator, and then set to zero where its labels are of removed
units. Operators whose meaning depends on the number of channels run over the channels kept.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node
from torch.fx.node import map_arg
from torch.utils import _pytree as pytree

from qpc.calls import arguments, aten
from qpc.channels.atoms import varying_axes
from qpc.channels.groups import ChannelAnalysis
from qpc.channels.masks import spared_units
from qpc.channels.removal import Removal

_OVER_CHANNELS = frozenset(
    {
        aten.layer_norm.default,
        aten.rms_norm.default,
        aten.group_norm.default,
        aten.softmax.int,
        aten.log_softmax.int,
        aten.mean.dim,
        aten.amax.default,
        aten.amin.default,
        aten.logsumexp.default,
        aten.var.correction,
        aten.var.dim,
        aten.std.correction,
        aten.std.dim,
        aten.prod.dim_int,
        aten.all.dim,
    }
)

_RECURRENT = frozenset({aten.lstm.input, aten.gru.input, aten.rnn_tanh.input, aten.rnn_relu.input})


class Masked(Interpreter):
    """Runs the dense graph on one sample with removed channels forced to zero."""

    def __init__(self, gm: GraphModule, analysis: ChannelAnalysis, units: frozenset[int]) -> None:
        super().__init__(gm)
        self._analysis, self._removal = analysis, Removal(gm, analysis, units)

    def run_node(self, n: Node) -> Any:
        every = self._analysis.values.get(n)
        if every is None:
            return super().run_node(n)
        if n.target in _OVER_CHANNELS:
            return self._over_kept(n)
        if n.target is aten.scaled_dot_product_attention.default and self._sums_over_keys(n):
            return self._over_kept(n)
        gone = torch.stack([self._removal.goes(labels) for labels in every]).any(0)
        if n.target in _RECURRENT and bool(gone.any()):
            return self._step_by_step(n, gone.reshape(-1))
        value = super().run_node(n)
        return value.masked_fill(gone, 0) if isinstance(value, Tensor) else value

    def _step_by_step(self, node: Node, gone: Tensor) -> tuple[Tensor, ...]:
        """A recurrent layer whose removed units are zero after each step of each of its layers."""
        assert callable(node.target)
        given = map_arg(dict(arguments(node)), self.env.__getitem__)
        x, params, first = given["input"], given["params"], given["batch_first"]
        cells = isinstance(given["hx"], list | tuple)
        states = list(given["hx"]) if cells else [given["hx"]]
        per_layer, time, ends = len(params) // given["num_layers"], int(first), []
        for layer in range(given["num_layers"]):
            own = params[layer * per_layer : (layer + 1) * per_layer]
            state, steps = [s[layer : layer + 1] for s in states], []
            for piece in x.split(1, time):
                how = (own, given["has_biases"], 1, 0.0, False, False, first)
                out, *state = node.target(piece, state if cells else state[0], *how)
                state = [s.masked_fill(gone, 0) for s in state]
                steps.append(out.masked_fill(gone, 0))
            x = torch.cat(steps, time)
            ends.append(state)
        return (x, *(torch.cat(each) for each in zip(*ends, strict=True)))

    def _sums_over_keys(self, node: Node) -> bool:
        """Whether the channels are what attention runs over."""
        every = self._analysis.values[arguments(node)["key"]]
        return any(labels.dim() - 2 in varying_axes(labels) for labels in every)

    def _over_kept(self, node: Node) -> Tensor:
        """Gather the channels kept, run the operator on them, scatter the result into zeros."""
        assert callable(node.target)
        given = arguments(node)
        values = {k: self._gathered(v) if isinstance(v, Node) else v for k, v in given.items()}
        source = node.all_input_nodes[0]
        if "normalized_shape" in given:
            rank = len(given["normalized_shape"])
            values["normalized_shape"] = list(values["input"].shape[-rank:])
        if "num_groups" in given:
            stays = self._removal.kept(source)[1].reshape(given["num_groups"], -1)
            values["num_groups"] = int(stays.any(1).sum())
        if "enable_gqa" in given and given["scale"] is None:
            values["scale"] = 1 / math.sqrt(self._analysis.values[source][0].shape[-1])
        return _scatter(node.target(**values), self._removal.kept(node))

    def _gathered(self, node: Node) -> Tensor:
        return gather(self.env[node], self._removal.kept(node))


def masked_output(
    gm: GraphModule, analysis: ChannelAnalysis, units: frozenset[int], inputs: Sequence[Tensor]
) -> Any:
    """The output of the dense graph for one sample, with the removed channels forced to zero."""
    with torch.no_grad():
        return Masked(gm, analysis, units).run(*inputs)


def random_units(
    analysis: ChannelAnalysis, ratio: float, seed: int = 0, *, keep: int = 1
) -> frozenset[int]:
    """A share of the units of every group, at random, as many as can go; `keep` of each stay."""
    choose = random.Random(seed)
    units: set[int] = set()
    for group in analysis.groups:
        prunable = [unit.atom for unit in group.prunable]
        choose.shuffle(prunable)
        count = math.ceil(len(prunable) * ratio) if ratio < 0.5 else int(len(prunable) * ratio)
        units |= set(prunable[: min(count, len(group.units) - keep)])
    return frozenset(units - set(spared_units(analysis, units)))


def worst_error(expected: object, got: object) -> float:
    """The largest difference between two outputs of the same structure, by the largest value."""
    ours, theirs = pytree.tree_leaves(expected), pytree.tree_leaves(got)
    errors = [0.0]
    for a, b in zip(ours, theirs, strict=True):
        assert a.shape == b.shape, f"{a.shape} and {b.shape}"
        assert bool(b.isfinite().all()), "not finite"
        scale = max(float(a.abs().max()), 1e-6)
        errors.append(float((a - b).abs().max()) / scale)
    return max(errors)


def gather(value: Tensor, kept: Sequence[Tensor]) -> Tensor:
    """The indices kept along every axis."""
    for axis, stays in enumerate(kept):
        value = value.index_select(axis, stays.nonzero().flatten())
    return value


def _scatter(small: Tensor, kept: Sequence[Tensor]) -> Tensor:
    for axis, stays in enumerate(kept):
        shape = list(small.shape)
        shape[axis] = len(stays)
        full = small.new_zeros(shape)
        full.index_copy_(axis, stays.nonzero().flatten(), small)
        small = full
    return small

"""The equality oracle of pruning: the dense graph with the removed channels forced to zero.

Every value is computed by the dense operator, and then set to zero where its labels are of removed units.
Operators whose meaning depends on the number of channels run over the channels kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node

from qpc.analysis.channels import ChannelAnalysis
from qpc.analysis.removal import Removal
from qpc.ops.views import arguments, aten

_OVER_CHANNELS = frozenset(
    {
        aten.layer_norm.default,
        aten.group_norm.default,
        aten.softmax.int,
        aten.mean.dim,
        aten.amax.default,
        aten.amin.default,
    }
)


class Masked(Interpreter):
    """Runs the dense graph on one sample with removed channels forced to zero."""

    def __init__(self, gm: GraphModule, analysis: ChannelAnalysis, units: frozenset[int]) -> None:
        super().__init__(gm)
        self._analysis, self._removal = analysis, Removal(gm, analysis, units)

    def run_node(self, n: Node) -> Any:
        labels = self._analysis.values.get(n)
        if n.target in _OVER_CHANNELS and labels is not None:
            return self._over_kept(n)
        value = super().run_node(n)
        if labels is None or not isinstance(value, Tensor):
            return value
        return value.masked_fill(self._removal.goes(labels), 0)

    def _over_kept(self, node: Node) -> Tensor:
        """Gather the channels kept, run the operator on them, scatter the result into zeros."""
        assert callable(node.target)
        given = arguments(node)
        source = node.all_input_nodes[0]
        first = next(iter(given))
        values = {k: self.env[v] if isinstance(v, Node) else v for k, v in given.items()}
        values[first] = _gather(values[first], self._removal.kept(source))
        for name in ("weight", "bias"):
            if isinstance(given.get(name), Node):
                stays = self._stays(given[name])
                values[name] = _gather(values[name], stays)
        if node.target is aten.layer_norm.default:
            rank = len(given["normalized_shape"])
            values["normalized_shape"] = list(values[first].shape[-rank:])
        if node.target is aten.group_norm.default:
            stays = self._removal.kept(source)[1].reshape(given["num_groups"], -1)
            values["num_groups"] = int(stays.any(1).sum())
        small = (
            node.target(*list(values.values()))
            if node.target is not aten.mean.dim
            else node.target(values["self"], values["dim"], values["keepdim"])
        )
        return _scatter(small, self._removal.kept(node))

    def _stays(self, parameter: Node) -> list[Tensor]:
        tensor = self.env[parameter]
        stays = [torch.ones(size, dtype=torch.bool) for size in tensor.shape]
        for axis in self._analysis.axes:
            if axis.name == str(parameter.target):
                stays[axis.axis] = ~self._removal.goes(axis.labels)
        return stays


def masked_output(
    gm: GraphModule, analysis: ChannelAnalysis, units: frozenset[int], inputs: Sequence[Tensor]
) -> Any:
    """The output of the dense graph for one sample, with the removed channels forced to zero."""
    with torch.no_grad():
        return Masked(gm, analysis, units).run(*inputs)


def _gather(value: Tensor, kept: Sequence[Tensor]) -> Tensor:
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

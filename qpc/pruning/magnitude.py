"""Criteria that look at parameters only."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.fx import GraphModule

from qpc.channels.flow import ParameterAxis
from qpc.channels.groups import ChannelAnalysis, Group
from qpc.meta import attribute
from qpc.ops.affine import BatchNorm
from qpc.pruning.criteria import (
    CRITERIA,
    Criterion,
    Joining,
    Normalization,
    ParameterCriterion,
    rows,
)


@CRITERIA.named("l1")
@dataclass(frozen=True)
class L1(ParameterCriterion):
    """The sum of the magnitudes of a channel's weights. Li et al. 2017, arXiv:1608.08710."""

    normalize: Normalization = "mean"

    def channel_scores(self, gm: GraphModule, axis: ParameterAxis) -> Tensor:
        return rows(gm, axis).abs().sum(1)


@CRITERIA.named("l2")
@dataclass(frozen=True)
class L2(ParameterCriterion):
    """The Euclidean norm of a channel's weights. He et al. 2018, arXiv:1808.06866."""

    normalize: Normalization = "mean"

    def channel_scores(self, gm: GraphModule, axis: ParameterAxis) -> Tensor:
        return rows(gm, axis).square().sum(1).sqrt()


@CRITERIA.named("fpgm")
@dataclass(frozen=True)
class FPGM(ParameterCriterion):
    """The sum of the distances to all other channels of the same weight.

    What is nearest to the geometric median can be replaced best by the others. He et al. 2019,
    "Filter pruning via geometric median", arXiv:1811.00250.
    """

    normalize: Normalization = "mean"

    def channel_scores(self, gm: GraphModule, axis: ParameterAxis) -> Tensor:
        channels = rows(gm, axis)
        quick = "use_mm_for_euclid_dist"  # float64 has digits to spare
        return torch.cdist(channels, channels, compute_mode=quick).sum(1)


@CRITERIA.named("lamp")
@dataclass(frozen=True)
class LAMP(ParameterCriterion):
    """The squared norm of a channel, divided by those of all channels that are not smaller.

    This makes layers comparable: the largest channel of each has score 1, so that a global
    threshold empties none. Lee et al. 2021, arXiv:2010.07611, for channels in place of weights.
    """

    def channel_scores(self, gm: GraphModule, axis: ParameterAxis) -> Tensor:
        energy = rows(gm, axis).square().sum(1)
        ascending, order = energy.sort(stable=True)
        not_smaller = ascending.flip(0).cumsum(0).flip(0)
        relative = torch.where(not_smaller > 0, ascending / not_smaller, 0.0)
        return torch.empty_like(relative).index_copy_(0, order, relative)


@CRITERIA.named("batch-norm-scale")
@dataclass(frozen=True)
class BatchNormScale(Joining):
    """The magnitude of the scale (gamma) that batch normalisation gives a channel.

    Meaningful after training with an L1 penalty on the scales. Units without batch normalisation
    are not judged. Liu et al. 2017, "Network slimming", arXiv:1708.06519.
    """

    def scores(self, gm: GraphModule, analysis: ChannelAnalysis, group: Group) -> Tensor:
        scales = {
            id(attribute(gm, str(norm.weight.target)))
            for node in gm.graph.nodes
            if (norm := BatchNorm.of(node)) and norm.weight is not None
        }
        axes = [axis for axis in analysis.axes if id(attribute(gm, axis.name)) in scales]
        return self.join(
            group, [(axis.labels, attribute(gm, axis.name).detach().abs()) for axis in axes]
        )


@CRITERIA.named("random")
@dataclass(frozen=True)
class Random(Criterion):
    """Random scores, which a criterion has to beat. Mittal et al. 2018, arXiv:1801.10447.

    seed: the same seed gives the same scores for groups of the same index and size.
    """

    seed: int = 0

    def scores(self, gm: GraphModule, analysis: ChannelAnalysis, group: Group) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + group.index)
        return torch.rand(len(group.prunable), generator=generator, dtype=torch.float64)

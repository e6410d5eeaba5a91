"""Freeze the statistics of batch norms: training leaves them as they are.

Before:  batch norms that normalise by the statistics of the batch once the graph trains
After:   batch norms that use, and keep, their running statistics in training too
Keeps:   the output in inference; all tensors
Leaves:  batch norms that are frozen already, or have no running statistics
Cost:    one walk over the graph

For the last part of training, Krishnamoorthi 2018, arXiv:1806.08342, section 3.2.2. In a loop of
one's own `qpc.freeze_batch_norm` does the same in place, between two steps.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch.fx import GraphModule

from qpc.base import Pass, PassContext
from qpc.facts import CORE_FORM
from qpc.meta import info
from qpc.ops.affine import BatchNorm
from qpc.training.switch import freeze_batch_norm


@dataclass(frozen=True)
class FreezeBatchNorm(Pass, name="freeze-batch-norm", requires={CORE_FORM}):
    """Freeze every batch norm with running statistics."""

    def apply(self, gm: GraphModule, ctx: PassContext) -> bool:
        norms = [n for n in map(BatchNorm.of, gm.graph.nodes) if n is not None]
        for norm in norms:
            if norm.running_mean is None:
                ctx.decline(norm.node, "batch norm keeps no running statistics")
        moving = [n for n in norms if n.running_mean and not info(n.node).frozen]
        if moving:
            freeze_batch_norm(gm)
        ctx.summarize(f"{len(moving)} batch norms frozen")
        return bool(moving)

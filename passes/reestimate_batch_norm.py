"""Measure the running statistics of batch norms anew, after pruning has shifted them.

Before:  batch norms with the statistics of the unpruned model
After:   running mean and variance are the averages over the given batches
Keeps:   everything else
Leaves:  batch norms without running statistics
Cost:    one forward pass a batch

Every batch counts alike. Li et al. 2020, arXiv:2007.02491 (EagleEye), show what it is worth after
pruning.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch.fx import GraphModule

from qpc.base import Pass, PassContext
from qpc.batches import Batch, inputs_of
from qpc.errors import CalibrationError
from qpc.facts import CORE_FORM
from qpc.meta import attribute, copied
from qpc.ops.affine import BatchNorm


@dataclass(frozen=True)
class ReestimateBatchNorm(Pass, name="reestimate-batch-norm", requires={CORE_FORM}):
    """Average batch statistics over `batches`, which come as `Calibrate` takes them."""

    batches: Iterable[Batch] = field(repr=False)

    def apply(self, gm: GraphModule, ctx: PassContext) -> bool:
        trial = copied(gm)  # so that a failure leaves the statistics as they were
        norms = [n for n in map(BatchNorm.of, trial.graph.nodes) if n and n.running_mean]
        for node in gm.graph.nodes:
            if (norm := BatchNorm.of(node)) and norm.running_mean is None:
                ctx.decline(node, "batch norm keeps no running statistics")
        if not norms:
            return False
        count = _average(trial, norms, self.batches)
        for norm in norms:
            for part in (norm.running_mean, norm.running_var):
                if part is not None:
                    measured = attribute(trial, str(part.target))
                    attribute(gm, str(part.target)).copy_(measured)
        ctx.summarize(f"{len(norms)} batch norms measured on {count} batches")
        return True


def _average(gm: GraphModule, norms: list[BatchNorm], batches: Iterable[Batch]) -> int:
    """Run batches in training mode; with momentum 1/k at batch k the running values are means."""
    count = 0
    with torch.no_grad():
        for number, batch in enumerate(batches):
            inputs = inputs_of(gm, batch, number)
            for norm in norms:
                norm.training, norm.momentum = True, 1.0 / (number + 1)
            gm.recompile()
            gm(*inputs)
            count = number + 1
    if not count:
        raise CalibrationError(
            "there are no batches to measure batch norms on", fix="pass at least one batch"
        )
    return count

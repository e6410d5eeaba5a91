"""Switch a graph that trains to inference.

Before:  batch norms normalise by the statistics of the batch, dropout drops
After:   batch norms use their running statistics, dropout does nothing
Keeps:   all tensors
Leaves:  graphs in inference mode
Cost:    one walk over the graph

Core form stands for inference, and passes take a graph for what it computes: what is trained in a
loop is switched before it is converted, compiled or saved.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch.fx import GraphModule

from qpc.base import Pass, PassContext
from qpc.facts import CORE_FORM
from qpc.training.switch import set_training


@dataclass(frozen=True)
class EndTraining(Pass, name="end-training", requires={CORE_FORM}):
    """As `qpc.set_training(gm, mode=False)`, in a pipeline."""

    def apply(self, gm: GraphModule, ctx: PassContext) -> bool:
        before = [(node.args, node.kwargs) for node in gm.graph.nodes]
        set_training(gm, mode=False)
        return before != [(node.args, node.kwargs) for node in gm.graph.nodes]

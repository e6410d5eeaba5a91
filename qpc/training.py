"""Train a traced graph: fine-tuning after pruning, quantization-aware training."""

from __future__ import annotations

from torch.fx import GraphModule

from qpc.facts import require_graph
from qpc.ops import views


def set_training(gm: GraphModule, mode: bool = True) -> GraphModule:  # as nn.Module.train
    """Switch a core-form graph between training and inference, in place, and return it.

    In training, batch norms normalise with the statistics of the batch and update their running
    ones, and dropout drops. Core form stands for inference: switch back before running passes,
    compiling or saving.
    """
    require_graph(gm, "set_training")
    for node in gm.graph.nodes:
        if norm := views.BatchNorm.of(node):
            norm.training = mode and norm.running_mean is not None
        elif drop := views.Dropout.of(node):
            drop.train = mode
    gm.recompile()
    gm.train(mode)
    return gm

"""Train a traced graph: fine-tuning, before or after pruning, until it is quantized."""

from __future__ import annotations

from torch._ops import OpOverload
from torch.fx import GraphModule

from qpc.calls import qpc_ops
from qpc.errors import PassError
from qpc.facts import require_graph
from qpc.ops.affine import BatchNorm
from qpc.ops.movement import Dropout
from qpc.settings import require_kind


def set_training(gm: GraphModule, mode: bool = True) -> GraphModule:  # as nn.Module.train
    """Switch a core-form graph between training and inference, in place, and return it.

    In training, batch norms normalise with the statistics of the batch and update their running
    ones, and dropout drops. Core form stands for inference: switch back before running passes,
    compiling or saving.

    Raises PassError if a graph that rounds, fake-quantized or integer, is to be trained: rounding
    has no gradient that it could learn from. Observers do not round.
    """
    require_graph(gm, "set_training")
    require_kind("mode", mode, bool, "True or False")
    if mode:
        _refuse_rounding(gm)
    for node in gm.graph.nodes:
        if norm := BatchNorm.of(node):
            norm.training = mode and norm.running_mean is not None
        elif drop := Dropout.of(node):
            drop.train = mode
    gm.recompile()
    gm.train(mode)
    return gm


def _refuse_rounding(gm: GraphModule) -> None:
    for node in gm.graph.nodes:
        target = node.target
        if (
            isinstance(target, OpOverload)
            and target.namespace == "qpc"
            and target is not qpc_ops.observe.default
        ):
            raise PassError(
                f"a quantized graph cannot be trained yet: {target} has no gradient",
                node=node,
                fix="train the float graph that qpc.trace returned, then quantize it",
            )

"""Train a traced graph: in float, before or after pruning, or with its values rounded to grids."""

from __future__ import annotations

from torch._ops import OpOverload
from torch.fx import GraphModule

from qpc.calls import qpc_ops, set_arguments
from qpc.errors import PassError
from qpc.facts import require_graph
from qpc.meta import info, update_info
from qpc.ops.affine import BatchNorm
from qpc.ops.movement import Dropout
from qpc.settings import require_kind
from qpc.training.ranges import following


def set_training(gm: GraphModule, mode: bool = True) -> GraphModule:  # as nn.Module.train
    """Switch a core-form graph between training and inference, in place, and return it.

    In training, batch norms normalise with the statistics of the batch and update their running
    ones, but for those that `freeze_batch_norm` has frozen, and dropout drops. Core form stands for
    inference: switch back before running passes, compiling or saving.

    A fake-quantized graph trains too: its rounding lets gradients pass within the grids, and the
    grids themselves learn after `qpc.passes.LearnGrids`.

    Raises PassError if a graph of integers is to be trained: it has no gradients.
    """
    require_graph(gm, "set_training")
    require_kind("mode", mode, bool, "True or False")
    if mode:
        _refuse_integers(gm)
    for node in gm.graph.nodes:
        if norm := BatchNorm.of(node):
            norm.training = mode and norm.running_mean is not None and not info(node).frozen
        elif drop := Dropout.of(node):
            drop.train = mode
    for node in following(gm):
        set_arguments(node, training=mode)
    gm.recompile()
    gm.train(mode)
    return gm


def freeze_batch_norm(gm: GraphModule, frozen: bool = True) -> GraphModule:
    """Freeze the statistics of all batch norms of a core-form graph, in place, and return it.

    From then on they normalise by their running statistics in training too, and leave these alone;
    their weights and biases go on learning. Published recipes freeze them for the last part of
    training (Krishnamoorthi 2018, arXiv:1806.08342, section 3.2.2, "after sufficient training"), so
    that what is trained is what is deployed. Call it between two steps of a loop: the optimizer's
    parameters stay what they are. It is saved with the graph.

    frozen: False lets them move again.
    """
    require_graph(gm, "freeze_batch_norm")
    require_kind("frozen", frozen, bool, "True or False")
    for node in gm.graph.nodes:
        norm = BatchNorm.of(node)
        if norm is None or norm.running_mean is None:
            continue
        update_info(node, frozen=frozen)
        norm.training = gm.training and not frozen
    gm.recompile()
    return gm


def _refuse_integers(gm: GraphModule) -> None:
    steps = (qpc_ops.unfold_step.default, qpc_ops.round_bias.default)
    rounding = (qpc_ops.fake_quantize.default, *steps)
    trained = (qpc_ops.observe.default, *rounding)
    for node in gm.graph.nodes:
        target = node.target
        if isinstance(target, OpOverload) and target.namespace == "qpc" and target not in trained:
            raise PassError(
                f"a graph of integers cannot be trained: {target} has no gradient",
                node=node,
                fix="train the graph of qpc.prepare_qat, or the float graph of qpc.trace, and"
                " convert it afterwards",
            )

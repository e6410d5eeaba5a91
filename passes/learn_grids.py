"""Let training move the grids.

Before:  x -> fake_quantize(scale) -> conv2d(fake_quantize(W, scales)), all of them buffers
After:   the same, with scales (and zero points, if asked for) that are parameters
Keeps:   the output, bit for bit
Leaves:  grids that are learned already
Cost:    one walk over the graph

Learned step sizes: Esser et al. 2020, arXiv:1902.08153; learned zero points: Bhalgat et al. 2020,
arXiv:2004.09576. As there, gradients are divided by sqrt(values * highest), where `values` counts
what one step rounds (of one sample), so that steps learn as fast as weights. `FreezeGrids` makes
grids of what was learned.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from qpc.analysis.roundings import grid_tensor
from qpc.base import Pass, PassContext
from qpc.calls import arguments, drop_defaults, qpc_ops, set_arguments
from qpc.edit import Editor
from qpc.facts import FAKE_QUANTIZED
from qpc.meta import attribute, info, update_info
from qpc.settings import require_kind


@dataclass(frozen=True)
class LearnGrids(Pass, name="learn-grids", requires={FAKE_QUANTIZED}):
    """Make parameters of the scales of a fake-quantized graph.

    activations, weights: which scales.
    zero_points: also those of activations that are not quantized symmetrically.
    """

    activations: bool = True
    weights: bool = True
    zero_points: bool = False

    def __post_init__(self) -> None:
        for name in ("activations", "weights", "zero_points"):
            require_kind(name, getattr(self, name), bool, "True or False")

    def apply(self, gm: GraphModule, ctx: PassContext) -> bool:
        editor = Editor(gm, self.name)
        shared: dict[str, Node] = {}  # the first rounding to the grid of an observer
        learned = 0
        for node in gm.graph.find_nodes(op="call_function", target=qpc_ops.fake_quantize.default):
            observer = info(node).observer
            if not (self.weights if observer is None else self.activations):
                continue
            if observer is not None:
                _share(node, shared.setdefault(observer, node))
            if arguments(node)["range"] is not None:
                ctx.decline(node, "its grid follows its values")
                continue
            step = arguments(node)["scale"]
            owner = step if step.target is qpc_ops.unfold_step.default else node
            set_arguments(owner, gradient_scale=_gradient_scale(gm, node))
            drop_defaults(owner)
            learned += _learn(editor, node, "scale")
            if self.zero_points and not _symmetric(node):
                learned += _learn(editor, node, "zero_point")
        editor.drop_unused()
        ctx.summarize(f"{learned} tensors of grids are learned")
        return bool(learned)


def _learn(editor: Editor, node: Node, argument: str) -> bool:
    """Make a parameter of a tensor of a grid; whether it was none before."""
    tensor = grid_tensor(node, argument)
    value = attribute(editor.gm, str(tensor.target))
    if isinstance(value, nn.Parameter):
        update_info(tensor, dtype=value.dtype)  # where several calls read it
        return False
    editor.set_tensor(str(tensor.target), nn.Parameter(value.float()))
    update_info(tensor, dtype=torch.float32)
    return True


def _share(node: Node, first: Node) -> None:
    """Let `node` read the grid of `first`, which is the same: it is to stay the same."""
    if node is not first:
        given = arguments(first)
        set_arguments(node, scale=given["scale"], zero_point=given["zero_point"])


def _symmetric(node: Node) -> bool:
    config = info(node).config  # weights have none, and are symmetric
    return config is None or config.activation.symmetric


def _gradient_scale(gm: GraphModule, node: Node) -> float:
    given = arguments(node)
    steps: Tensor = attribute(gm, str(grid_tensor(node, "scale").target))
    sizes = info(node).shape or ()
    values = math.prod(size for size in sizes if isinstance(size, int)) / steps.numel()
    zero = float(attribute(gm, str(given["zero_point"].target)).detach().max())
    return 1 / math.sqrt(max(values, 1) * max(given["hi"] - zero, 1))

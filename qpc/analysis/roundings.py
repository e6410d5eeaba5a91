"""Calls that round to a grid: the tensors behind them, and what they round to as these are now."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from qpc.calls import arguments, qpc_ops
from qpc.meta import attribute
from qpc.quant.fake_quantization import Rounding
from qpc.quant.simulated_folding import FoldedNorm, UnfoldedStep
from qpc.registry import Through, seen_through


def grid_tensor(rounding: Node, argument: str) -> Node:
    """The `get_attr` node of the "scale" or "zero_point" of a call of `qpc::fake_quantize`.

    That of a scale for folded weights is read through `qpc::unfold_step`.
    """
    found: Node = arguments(rounding)[argument]
    if found.target is qpc_ops.unfold_step.default:
        found = arguments(found)["step"]
    return found


def unrounded(part: Node) -> Node:
    """The parameter that is a weight or bias but for rounding; what computes it if it is none."""
    while seen_through(part) is Through.WHOLE:
        part = part.all_input_nodes[0]
    return part


def rounding_of(gm: GraphModule, rounding: Node) -> Rounding:
    """What a call of `qpc::fake_quantize` computes, as its grid is now."""
    given = arguments(rounding)
    zero_point = _tensor(gm, given["zero_point"])
    step, ends = _step(gm, given["scale"]), (given["lo"], given["hi"])
    layout = given["axis"], given["groups"], given["safe_pairs"]
    return Rounding(step, zero_point, *ends, *layout)


def _step(gm: GraphModule, scale: Node) -> Tensor:
    if scale.target is not qpc_ops.unfold_step.default:
        return _tensor(gm, scale)
    given = arguments(scale)
    weight, variance = given["weight"], _tensor(gm, given["running_var"])
    gamma = None if weight is None else _tensor(gm, weight)
    norm = FoldedNorm(gamma, None, variance, given["eps"])
    return UnfoldedStep(_tensor(gm, given["step"]), norm).value()


def _tensor(gm: GraphModule, node: Node) -> torch.Tensor:
    return attribute(gm, str(node.target)).detach()

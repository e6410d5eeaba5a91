"""How much arithmetic a graph node asks for."""

from __future__ import annotations

from math import prod

from torch.fx import GraphModule, Node

from qpc.calls import arguments
from qpc.meta import attribute, info
from qpc.registry import op_name
from qpc.types import resolve


def multiply_accumulates(gm: GraphModule, node: Node, batch: int) -> int:
    """Multiply-accumulates of an integer convolution or linear layer; 0 for other operators.

    Every element of the weight is used once at every position of the output, or, in a transposed
    convolution, of the input.
    """
    given = arguments(node)
    weight = given.get("weight")
    if not isinstance(weight, Node) or weight.op != "get_attr":
        return 0
    if attribute(gm, str(weight.target)).ndim < 2:  # of a norm, or slopes: no sums of products
        return 0
    # weight[out, in / groups, ...], or [in, out / groups, ...] of a transposed convolution
    counted = node.all_input_nodes[0] if "transpose" in op_name(node) else node
    shape = resolve(info(counted).shape or (), batch)
    return prod(shape) * prod(attribute(gm, str(weight.target)).shape[1:])

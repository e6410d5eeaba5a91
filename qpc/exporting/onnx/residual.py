"""Where TensorRT wants a residual sum to see a layer's value before it is rounded."""

from __future__ import annotations

from torch.fx import GraphModule, Node

from qpc.calls import arguments, qpc_ops
from qpc.layers import integer_layer


def branches_of_sums(gm: GraphModule) -> list[Node]:
    """For each sum of two values the layer whose value goes there alone, the later one of two.

    A sum is computed together with one layer only, so that the other operand stays rounded.
    """
    order = {node: place for place, node in enumerate(gm.graph.nodes)}
    found: list[Node] = []
    for node in gm.graph.find_nodes(op="call_function", target=qpc_ops.add.default):
        operands = [arguments(node)[name] for name in ("a", "b")]
        alone = [
            value
            for value in operands
            if isinstance(value, Node)
            and integer_layer(value) is not None
            and list(value.users) == [node]
            and operands[0] is not operands[1]
        ]
        found.extend(sorted(alone, key=order.__getitem__)[-1:])
    return found

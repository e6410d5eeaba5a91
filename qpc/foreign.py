"""Calls that quantize and dequantize in the manner of other tools: `quantized_decomposed`."""

from __future__ import annotations

from torch._ops import OpOverload
from torch.fx import GraphModule, Node

_NAMESPACE = "quantized_decomposed"


def is_foreign(node: Node) -> bool:
    """Whether a call belongs to the quantization of PT2E, PyTorch's own."""
    return isinstance(node.target, OpOverload) and node.target.namespace == _NAMESPACE


def foreign_calls(gm: GraphModule) -> list[Node]:
    """All of these in a graph, in its order."""
    return [n for n in gm.graph.nodes if is_foreign(n)]


def foreign_name(node: Node) -> str:
    """The operator's name and overload, such as `quantize_per_tensor.default`."""
    return str(node.target).removeprefix(f"{_NAMESPACE}.")

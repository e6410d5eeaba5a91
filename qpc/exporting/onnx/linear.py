"""Matrix products."""

from __future__ import annotations

from torch.fx import Node

from qpc.calls import qpc_ops
from qpc.exporting.onnx.exporter import Exporter, Rule
from qpc.exporting.onnx.weights import weights_of
from qpc.ops.linear import IntLinear


def _linear(to: Exporter, node: Node) -> str:
    """`qpc::linear`."""
    source = IntLinear(node).input
    rank = len(to.shape(source))
    name, shape = to.of(source), to.shape(node)
    if rank != 2:  # Gemm takes matrices
        name = to.emit("Reshape", [name, to.integers((-1, to.size(source, -1)))])
    made = to.emit("Gemm", [name, *weights_of(to, node)], transB=1)
    if rank != 2:
        made = to.reshaped(made, shape)
    return to.clipped(node, made)


RULES: dict[object, Rule] = {
    qpc_ops.linear.default: _linear,
    qpc_ops.linear_float.default: _linear,
}

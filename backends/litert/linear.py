"""Matrix products."""

from __future__ import annotations

from torch.fx import Node

from qpc.backends.litert.exporter import Exporter, Rule
from qpc.backends.litert.tables import Kind, Quantization, flag
from qpc.backends.litert.weights import bias_of, scales_of
from qpc.calls import qpc_ops
from qpc.ops.linear import IntLinear

_FULLY_CONNECTED = 8  # number of its options


def _linear(to: Exporter, node: Node) -> int:
    """`qpc::linear`, of rows: all axes but the last are one."""
    view = IntLinear(node)
    index = to.logical(to.operand(view.input))
    *_, features = to.shape(view.input)
    *_, outputs = shape = to.shape(node)
    rows = 1
    for size in shape[:-1]:
        rows *= size
    index = to.reshape(index, (rows, features))
    weight = to.tensor(node, "weight").numpy()
    scales = scales_of(to, node).tolist()
    grid = Quantization(tuple(scales), (0,) * len(scales))
    inputs = [index, to.constant(weight, grid, f"{node.name}.weight"), bias_of(to, node)]
    name = to.name_of(node) if len(shape) == 2 else ""
    made = to.result(node, name=name, shape=(rows, outputs))
    options = (_FULLY_CONNECTED, {0: to.fused(node), 2: flag(True)})
    index = to.clamped(node, to.emit(Kind.FULLY_CONNECTED, inputs, made, options))
    return to.as_stored(to.reshape(index, shape))


RULES: dict[object, Rule] = {
    qpc_ops.linear.default: _linear,
}

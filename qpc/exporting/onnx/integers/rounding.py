"""From floats to integers, and back."""

from __future__ import annotations

import numpy as np
import torch
from torch.fx import Node

from qpc.calls import arguments, qpc_ops
from qpc.exporting.onnx.exporter import Exporter, Rule
from qpc.exporting.onnx.integers.arithmetic import centred, int32
from qpc.quant.arithmetic import reciprocal


def _quantize(to: Exporter, node: Node) -> str:
    """`qpc::quantize`; NaN becomes the lowest point."""
    given = arguments(node)
    factor = to.constant(np.float32(reciprocal(given["scale"])))
    real = to.emit("Mul", [to.value(node, "x"), factor])
    for kind, end in (("Greater", "lo"), ("Less", "hi")):
        limit = to.constant(np.float32(given[end] - given["zero_point"]))
        real = to.emit("Where", [to.emit(kind, [real, limit]), real, limit])
    whole = to.cast(to.emit("Round", [real]), torch.int32)
    if given["zero_point"]:
        whole = to.emit("Add", [whole, int32(to, given["zero_point"])])
    return to.cast(whole, to.type(node).dtype)


def _dequantize(to: Exporter, node: Node) -> str:
    """`qpc::dequantize`."""
    given = arguments(node)
    whole = to.cast(centred(to, given["q"], given["zero_point"]), torch.float32)
    return to.emit("Mul", [whole, to.constant(np.float32(given["scale"]))])


RULES: dict[object, Rule] = {
    qpc_ops.quantize.default: _quantize,
    qpc_ops.dequantize.default: _dequantize,
}

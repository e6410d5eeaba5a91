"""Linear layers with integer weights and float values."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.fx import Node

from qpc.calls import arguments, qpc_ops
from qpc.exporting.grids import TensorGrid
from qpc.exporting.onnx.exporter import Exporter, Rule
from qpc.exporting.onnx.floats.functions import number
from qpc.exporting.onnx.floats.reduction import reduced
from qpc.exporting.onnx.rounding_nodes import dequantized
from qpc.quant.fixedpoint import weight_limit
from qpc.quant.grid import SMALLEST_SCALE
from qpc.quant.row_grids import HIGHEST
from qpc.quant.stored_weights import PACKED_BITS, stored_integers


def _weight_only(to: Exporter, node: Node) -> str:
    """`qpc::weight_only_linear`: weights become floats where they are read."""
    given = arguments(node)
    inputs = to.size(given["input"], -1)
    stored, scale = to.tensor(node, "weight"), to.tensor(node, "scale")
    integers, name = stored_integers(stored, inputs), str(given["weight"].target)
    if scale.shape[1] == 1 and to.form.rounds:
        weight = dequantized(to, integers, scale[:, 0].contiguous(), 0, name)
    else:
        scales = scale.repeat_interleave(given["group"], 1)[:, :inputs]
        weight = to.constant((integers.to(torch.float32) * scales).numpy(), name)
        if scale.shape[1] == 1 and to.form.explicit_clamps:
            limit = weight_limit(PACKED_BITS if stored.dtype is torch.uint8 else 8)
            ends = 0, -limit - 1, limit
            row = tuple(scale[:, 0].tolist())
            to.grids.append(TensorGrid(weight, row, *ends, axis=0, parameter=True))
    turned = to.emit("Transpose", [weight], perm=[1, 0])
    return _with_bias(to, node, to.emit("MatMul", [to.value(node, "input"), turned]))


def _dynamic(to: Exporter, node: Node) -> str:
    """`qpc::dynamic_linear`: a grid for each row, then a product of integers."""
    given = arguments(node)
    name, zero = to.value(node, "input"), number(to, 0)
    still = to.emit("Equal", [to.emit("Sub", [name, name]), zero])  # not where NaN or infinite
    last = [len(to.shape(given["input"])) - 1]
    finite = reduced(to, "ReduceMin", to.cast(still, torch.int32), last, keepdim=True)
    finite = to.cast(finite, torch.bool)
    known = to.emit("Where", [finite, name, zero])
    greatest = to.emit("Max", [reduced(to, "ReduceMax", known, last, keepdim=True), zero])
    least = to.emit("Min", [reduced(to, "ReduceMin", known, last, keepdim=True), zero])
    highest = number(to, HIGHEST)
    extent = to.emit("Sub", [to.emit("Div", [end, highest]) for end in (greatest, least)])
    scale = to.emit("Max", [extent, number(to, SMALLEST_SCALE)])
    inverse = to.emit("Div", [number(to, 1), scale])
    point = to.emit("Mul", [to.emit("Neg", [least]), inverse])
    point = to.emit("Round", [to.emit("Clip", [point, zero, highest])])
    lowest = to.emit("Neg", [point])
    inside = to.emit("Max", [to.emit("Mul", [known, inverse]), lowest])
    inside = to.emit("Min", [inside, to.emit("Add", [lowest, highest])])
    integers = to.emit("Add", [to.emit("Round", [inside]), point])
    made = _product(to, node, to.cast(integers, torch.uint8), to.cast(point, torch.int32))
    real = to.emit("Where", [finite, scale, number(to, float("nan"))])
    made = to.emit("Mul", [to.cast(made, torch.float32), to.value(node, "scale")])
    return _with_bias(to, node, to.emit("Mul", [made, real]))


def _product(to: Exporter, node: Node, integers: str, point: str) -> str:
    """The int32 sums of products of weights with the distances from the zero points of rows."""
    weight: Tensor = to.tensor(node, "weight")
    turned = to.constant(weight.t().contiguous().numpy(), str(arguments(node)["weight"].target))
    total = to.emit("MatMulInteger", [integers, turned])
    sums = to.constant(weight.numpy().sum(1, dtype=np.int32))
    return to.emit("Sub", [total, to.emit("Mul", [point, sums])])


def _with_bias(to: Exporter, node: Node, made: str) -> str:
    if arguments(node)["bias"] is None:
        return made
    return to.emit("Add", [made, to.value(node, "bias")])


RULES: dict[object, Rule] = {
    qpc_ops.weight_only_linear.default: _weight_only,
    qpc_ops.dynamic_linear.default: _dynamic,
}

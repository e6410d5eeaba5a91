"""Normalization and softmax."""

from __future__ import annotations

from math import prod

import numpy as np
import torch
from torch.fx import Node

from qpc.calls import arguments, aten
from qpc.errors import UnsupportedOpError
from qpc.exporting.onnx.exporter import Exporter, Rule
from qpc.exporting.onnx.floats.functions import number
from qpc.exporting.onnx.floats.reduction import reduced
from qpc.ops.affine import BatchNorm

_LAYER_NORM_SINCE = 17


def _batch_norm(to: Exporter, node: Node) -> str:
    size = to.size(node, 1)
    given = arguments(node)
    if given["training"]:
        raise UnsupportedOpError("no ONNX form for a batch norm in training", node=node)
    names = [
        to.value(node, "input"),
        _parameter(to, node, "weight", 1.0, size),
        _parameter(to, node, "bias", 0.0, size),
        *(to.value(node, argument) for argument in ("running_mean", "running_var")),
    ]
    return to.emit("BatchNormalization", names, epsilon=BatchNorm(node).eps)


def _parameter(to: Exporter, node: Node, argument: str, default: float, size: int) -> str:
    if arguments(node)[argument] is None:
        return to.constant(np.full(size, default, np.float32))
    return to.value(node, argument)


def _softmax(kind: str) -> Rule:
    def rule(to: Exporter, node: Node) -> str:
        given, rank = arguments(node), len(to.shape(node))
        axis = given["dim"] % max(rank, 1)
        name = to.operand(given["self"], torch.float32)
        if to.opset >= 13 or axis == rank - 1:
            return to.emit(kind, [name], axis=axis)
        # Before opset 13 all axes from `axis` on were one.
        order = [*(i for i in range(rank) if i != axis), axis]
        made = to.emit(kind, [to.emit("Transpose", [name], perm=order)], axis=rank - 1)
        return to.emit("Transpose", [made], perm=[order.index(i) for i in range(rank)])

    return rule


def _layer_norm(to: Exporter, node: Node) -> str:
    """`aten.layer_norm`."""
    given = arguments(node)
    count, rank = len(given["normalized_shape"]), len(to.shape(node))
    name = to.value(node, "input")
    sizes = [to.size(node, axis) for axis in range(rank - count, rank)]
    if to.opset >= _LAYER_NORM_SINCE:
        weight = (
            to.constant(np.ones(sizes, np.float32))
            if given["weight"] is None
            else to.value(node, "weight")
        )
        bias = [] if given["bias"] is None else [to.value(node, "bias")]
        return to.emit(
            "LayerNormalization", [name, weight, *bias], axis=rank - count, epsilon=given["eps"]
        )
    made = standardized(to, name, list(range(rank - count, rank)), given["eps"])
    return _scaled(to, node, made, None)


def standardized(to: Exporter, name: str, axes: list[int], eps: float) -> str:
    """`(x - mean) / sqrt(variance + eps)` over some axes."""
    mean = reduced(to, "ReduceMean", name, axes, keepdim=True)
    centred = to.emit("Sub", [name, mean])
    square = to.emit("Mul", [centred, centred])
    variance = reduced(to, "ReduceMean", square, axes, keepdim=True)
    deviation = to.emit("Sqrt", [to.emit("Add", [variance, number(to, eps)])])
    return to.emit("Div", [centred, deviation])


def _scaled(to: Exporter, node: Node, name: str, shape: list[int] | None) -> str:
    """A result by its weight and bias, brought to a shape to be broadcast if one is given."""
    for kind, argument in (("Mul", "weight"), ("Add", "bias")):
        if arguments(node)[argument] is not None:
            factor = to.value(node, argument)
            factor = factor if shape is None else to.reshaped(factor, shape)
            name = to.emit(kind, [name, factor])
    return name


def _group_norm(to: Exporter, node: Node) -> str:
    """`aten.group_norm`."""
    given = arguments(node)
    shape, groups = to.shape(node), given["num_groups"]
    inner = prod(to.size(node, axis) for axis in range(1, len(shape)))
    rows = to.reshaped(to.value(node, "input"), (shape[0], groups, inner // groups))
    made = to.reshaped(standardized(to, rows, [2], given["eps"]), shape)
    return _scaled(to, node, made, [-1, *[1] * (len(shape) - 2)])


def _instance_norm(to: Exporter, node: Node) -> str:
    """`aten.instance_norm` with the statistics of its input."""
    given, rank = arguments(node), len(to.shape(node))
    if not given["use_input_stats"]:
        raise UnsupportedOpError("no ONNX form for kept statistics of instances", node=node)
    made = standardized(to, to.value(node, "input"), list(range(2, rank)), given["eps"])
    return _scaled(to, node, made, [-1, *[1] * (rank - 2)])


def _rms_norm(to: Exporter, node: Node) -> str:
    """`aten.rms_norm`."""
    given, rank = arguments(node), len(to.shape(node))
    axes = list(range(rank - len(given["normalized_shape"]), rank))
    name = to.value(node, "input")
    square = reduced(to, "ReduceMean", to.emit("Mul", [name, name]), axes, keepdim=True)
    eps = torch.finfo(torch.float32).eps if given["eps"] is None else given["eps"]
    root = to.emit("Sqrt", [to.emit("Add", [square, number(to, eps)])])
    made = to.emit("Div", [name, root])
    return made if given["weight"] is None else to.emit("Mul", [made, to.value(node, "weight")])


RULES: dict[object, Rule] = {
    aten.batch_norm.default: _batch_norm,
    aten.softmax.int: _softmax("Softmax"),
    aten.log_softmax.int: _softmax("LogSoftmax"),
    aten._softmax.default: _softmax("Softmax"),
    aten._log_softmax.default: _softmax("LogSoftmax"),
    aten.layer_norm.default: _layer_norm,
    aten.group_norm.default: _group_norm,
    aten.instance_norm.default: _instance_norm,
    aten.rms_norm.default: _rms_norm,
}

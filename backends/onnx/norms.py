"""Normalization and softmax, which stay in float."""

from __future__ import annotations

import numpy as np
from torch.fx import Node

from qpc.backends.onnx.exporter import Exporter, Rule
from qpc.calls import arguments, aten
from qpc.ops.affine import BatchNorm


def _float_batch_norm(to: Exporter, node: Node) -> str:
    names = [to.value(node, "input")]
    for argument, default in (("weight", 1.0), ("bias", 0.0)):
        if arguments(node)[argument] is None:
            size = to.shape(node)[1]
            names.append(to.constant(np.full(size, default, np.float32)))
        else:
            names.append(to.constant(to.tensor(node, argument).numpy()))
    statistics = [to.tensor(node, argument) for argument in ("running_mean", "running_var")]
    names += [to.constant(tensor.numpy()) for tensor in statistics]
    return to.emit("BatchNormalization", names, epsilon=BatchNorm(node).eps)


def _float_softmax(to: Exporter, node: Node) -> str:
    return to.emit("Softmax", [to.value(node, "self")], axis=arguments(node)["dim"])


RULES: dict[object, Rule] = {
    aten.batch_norm.default: _float_batch_norm,
    aten.softmax.int: _float_softmax,
}

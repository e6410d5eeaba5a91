"""Normalization and softmax, which stay in float."""

from __future__ import annotations

import torch
from torch.fx import Node

from qpc.backends.litert.arithmetic import combined
from qpc.backends.litert.exporter import Exporter, Rule
from qpc.backends.litert.stored import stored_axes
from qpc.backends.litert.tables import Kind, Number, byte
from qpc.calls import arguments, aten
from qpc.ops.affine import BatchNorm

_SOFTMAX = 9  # number of its options


def _float_softmax(to: Exporter, node: Node) -> int:
    """`aten.softmax`; that of TensorFlow Lite is over the last axis."""
    index, rank = to.value(node, "self"), len(to.shape(node))
    axis = arguments(node)["dim"] % rank
    stored = stored_axes(rank)
    last = [*(a for a in stored if a != axis), axis]
    index = to.arrange(index, stored, last)
    made = to.like(index, to.stored(index).shape)
    index = to.emit(Kind.SOFTMAX, [index], made, (_SOFTMAX, {0: Number(1.0, "Float32")}))
    return to.arrange(index, last, stored)


def _float_batch_norm(to: Exporter, node: Node) -> int:
    """`aten.batch_norm`: one product and one sum."""
    view, size = BatchNorm(node), to.shape(node)[1]
    tensors = {
        name: to.tensor(node, name).double() if arguments(node)[name] is not None else default
        for name, default in (("weight", torch.ones(size)), ("bias", torch.zeros(size)))
    }
    mean, variance = (to.tensor(node, f"running_{name}").double() for name in ("mean", "var"))
    factor = tensors["weight"] / (variance + view.eps).sqrt()
    rank = len(to.shape(node))
    shape = [1] * rank
    shape[stored_axes(rank).index(1)] = size
    terms = factor, tensors["bias"] - mean * factor
    constants = [to.constant(term.float().reshape(shape).numpy()) for term in terms]
    index = to.value(node, "input")
    scaled = to.like(index, to.stored(index).shape)
    index = to.emit(Kind.MUL, [index, constants[0]], scaled, (21, {0: byte(0)}))
    return combined(to, node, Kind.ADD, [index, constants[1]], byte(0))


RULES: dict[object, Rule] = {
    aten.softmax.int: _float_softmax,
    aten.batch_norm.default: _float_batch_norm,
}

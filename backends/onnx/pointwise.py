"""Tables (lookup tables): the functions that they hold, or tables, too."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.fx import Node
from torch.nn import functional as F

from qpc.backends.onnx.exporter import Exporter, Rule
from qpc.calls import arguments, qpc_ops
from qpc.ops.concat import Cat
from qpc.quant.fixedpoint import lookup_table, real_table, requant_table

_Form: TypeAlias = Callable[[Exporter, str], str]


def _lookup(to: Exporter, node: Node) -> str:
    """`qpc::lookup`: the function is found by making the tables of all that are known.

    Tables of other functions, and of several in a row, are looked up: with a QuantizeLinear for the
    index, and a Gather.
    """
    source = arguments(node)["q"]
    if to.tensor(node, "table").dtype is torch.float32:
        return _real_lookup(to, node, source)
    before, after, table = to.grid(source), to.grid(node), to.tensor(node, "table")
    if torch.equal(requant_table(before, after), table):
        # To round the operands of a concat to its grid, or its result, is the same.
        if all(Cat.matches(user) and to.grid(user) == after for user in node.users):
            to.rounded_later.add(node)
        return to.names[source]
    for function, form in _FUNCTIONS:
        if torch.equal(lookup_table(function, before, after), table):
            return form(to, to.names[source])
    return _gathered(to, source, after.dequantize(table))


def _real_lookup(to: Exporter, node: Node, source: Node) -> str:
    """`qpc::lookup` in a table of floats, which no QuantizeLinear follows."""
    table = to.tensor(node, "table")
    for function, form in _FUNCTIONS:
        if torch.equal(real_table(function, to.grid(source)), table):
            return form(to, to.names[source])
    return _gathered(to, source, table)


def _gathered(to: Exporter, source: Node, table: Tensor) -> str:
    """The entries of a table of 256 floats, picked by the integers of a value."""
    grid = to.grid(source)
    index = to.emit("Cast", [to.quantized(to.names[source], grid)], to=_INT32)
    if grid.lo:  # tables begin with the least integer
        index = to.emit("Sub", [index, to.constant(np.int32(grid.lo))])
    return to.emit("Gather", [to.constant(table.numpy()), index], axis=0)


def _prelu(to: Exporter, node: Node) -> str:
    factor = to.grid(node).scale / to.grid(arguments(node)["q"]).scale
    slopes = (to.tensor(node, "negative").double() * factor).float()
    slope = to.constant(slopes[:, None, None].numpy())
    return to.clipped(node, to.emit("PRelu", [to.value(node, "q"), slope]))


_INT32 = 6  # of onnx.TensorProto.DataType


def _operator(kind: str, **attributes: Any) -> _Form:
    return lambda to, name: to.emit(kind, [name], **attributes)


def _gelu(to: Exporter, name: str) -> str:
    """X / 2 * (1 + erf(x / sqrt(2))): opset 17 has no operator of its own."""
    scaled = to.emit("Div", [name, to.constant(np.float32(math.sqrt(2)))])
    grown = to.emit("Add", [to.emit("Erf", [scaled]), to.constant(np.float32(1))])
    return to.emit("Mul", [to.emit("Mul", [name, grown]), to.constant(np.float32(0.5))])


def _mish(to: Exporter, name: str) -> str:
    return to.emit("Mul", [name, to.emit("Tanh", [to.emit("Softplus", [name])])])


_FUNCTIONS: tuple[tuple[Callable[[Tensor], Tensor], _Form], ...] = (
    (F.relu, _operator("Relu")),
    (F.hardswish, _operator("HardSwish")),
    (F.hardsigmoid, _operator("HardSigmoid", alpha=1 / 6, beta=0.5)),
    (torch.sigmoid, _operator("Sigmoid")),
    (F.silu, lambda to, name: to.emit("Mul", [name, to.emit("Sigmoid", [name])])),
    (torch.tanh, _operator("Tanh")),
    (F.gelu, _gelu),
    *(
        (partial(F.leaky_relu, negative_slope=slope), _operator("LeakyRelu", alpha=slope))
        for slope in (0.01, 0.1, 0.2)
    ),
    (F.elu, _operator("Elu")),
    (F.softplus, _operator("Softplus")),
    (F.mish, _mish),
    (torch.exp, _operator("Exp")),
    (torch.abs, _operator("Abs")),
    (torch.neg, _operator("Neg")),
    (torch.erf, _operator("Erf")),
)


RULES: dict[object, Rule] = {
    qpc_ops.lookup.default: _lookup,
    qpc_ops.prelu.default: _prelu,
}

"""Tables (lookup tables): the functions that they hold, or tables, too."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.fx import Node
from torch.nn import functional as F

from qpc.calls import arguments, qpc_ops
from qpc.errors import BackendError
from qpc.exporting.onnx.exporter import Exporter, Rule, onnx_type
from qpc.exporting.onnx.floats import functions as forms
from qpc.exporting.onnx.floats.functions import Form, operator
from qpc.meta import info
from qpc.ops.concat import Cat
from qpc.quant.fixedpoint import lookup_table, real_table, requant_table
from qpc.quant.grid import QParams


def _prelu(to: Exporter, node: Node) -> str:
    """`qpc::prelu`: its factors are those of requantization, for channels with a slope each."""
    factor = to.grid(node).scale / to.grid(arguments(node)["q"]).scale
    slopes = (to.tensor(node, "negative").double() * factor).float()
    slope = to.constant(slopes[:, None, None].numpy())
    return to.clipped(node, to.emit("PRelu", [to.value(node, "q"), slope]))


def _lookup(to: Exporter, node: Node) -> str:
    """`qpc::lookup`: the function is found by making the tables of all that are known.

    Tables of other functions, and of several in a row, are looked up: with a QuantizeLinear for the
    index, and a Gather.
    """
    source = arguments(node)["q"]
    before, table = real_grid(source), to.tensor(node, "table")
    if table.dtype is torch.float32:
        return _real_lookup(to, node, source)
    after = real_grid(node)
    if torch.equal(requant_table(before, after), table):
        # To round the operands of a concat to its grid, or its result, is the same. TensorRT and
        # QNN want each operand on the grid of the result.
        joined = all(Cat.matches(user) and info(user).qparams == after for user in node.users)
        if joined and to.form.kind == "qdq":
            to.rounded_later.add(node)
        return to.of(source)
    for function, form in _FUNCTIONS:
        if torch.equal(lookup_table(function, before, after), table):
            return form(to, to.of(source))
    return _gathered(to, source, after.dequantize(table))


def _real_lookup(to: Exporter, node: Node, source: Node) -> str:
    """`qpc::lookup` in a table of floats, which nothing rounds."""
    table = to.tensor(node, "table")
    for function, form in _FUNCTIONS:
        if torch.equal(real_table(function, real_grid(source)), table):
            return form(to, to.of(source))
    return _gathered(to, source, table)


def _gathered(to: Exporter, source: Node, values: Tensor) -> str:
    """The entries of a table of 256 floats, picked by the integers of a value."""
    return to.emit("Gather", [to.constant(values.numpy()), _index(to, source)], axis=0)


def _index(to: Exporter, source: Node) -> str:
    """Which entry of a table stands for a value; tables begin with the least integer."""
    grid, name, int32 = real_grid(source), to.of(source), onnx_type(torch.int32)
    least = torch.iinfo(grid.dtype).min
    if to.form.kind == "qdq":
        index = to.emit("Cast", [to.quantized(name, grid)], to=int32)
        return to.emit("Sub", [index, to.constant(np.int32(least))]) if least else index
    # TensorRT takes no QuantizeLinear alone, and float models have none.
    name = to.emit("Mul", [name, to.constant(np.float32(grid.reciprocal))])
    name = to.emit("Round", [name])
    name = to.emit("Add", [name, to.constant(np.float32(grid.zero_point - least))])
    ends = [to.constant(np.float32(point - least)) for point in (grid.lo, grid.hi)]
    return to.emit("Cast", [to.emit("Clip", [name, *ends])], to=int32)


def real_grid(node: Node) -> QParams:
    """The grid of the graph's own integers."""
    grid = info(node).qparams
    if grid is None:
        raise BackendError("the grid of an integer value is not known", node=node)
    return grid


_FUNCTIONS: tuple[tuple[Callable[[Tensor], Tensor], Form], ...] = (
    (F.relu, operator("Relu")),
    (F.hardswish, forms.hardswish),
    (F.hardsigmoid, forms.hardsigmoid),
    (torch.sigmoid, operator("Sigmoid")),
    (F.silu, forms.times_itself(operator("Sigmoid"))),
    (torch.tanh, operator("Tanh")),
    (F.gelu, forms.gelu),
    (partial(F.gelu, approximate="tanh"), forms.gelu_tanh),
    *(
        (partial(F.leaky_relu, negative_slope=slope), operator("LeakyRelu", alpha=slope))
        for slope in (0.01, 0.1, 0.2)
    ),
    (F.elu, operator("Elu")),
    (F.softplus, operator("Softplus")),
    (F.mish, forms.mish),
    (torch.exp, operator("Exp")),
    (torch.abs, operator("Abs")),
    (torch.neg, operator("Neg")),
    (torch.erf, operator("Erf")),
    (torch.square, forms.square),
)
"""The functions that users' models have, in the order in which they are looked for."""


RULES: dict[object, Rule] = {
    qpc_ops.lookup.default: _lookup,
    qpc_ops.prelu.default: _prelu,
}

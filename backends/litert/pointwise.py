"""Tables (lookup tables): the functions that they hold, or tables, too."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.fx import Node
from torch.nn import functional as F

from qpc.backends.litert.exporter import Exporter, Rule
from qpc.backends.litert.stored import as_stored
from qpc.backends.litert.tables import Kind, Number, Quantization, TypeCode, Value, byte
from qpc.calls import arguments, aten, qpc_ops
from qpc.quant.fixedpoint import lookup_table, requant_table
from qpc.quant.grid import QParams

_LEAKY, _GATHER, _CAST, _ADD = 75, 23, 37, 11  # numbers of their options
_LEAST = -128  # stored integer of a table's first entry


def _lookup(to: Exporter, node: Node) -> int:
    """`qpc::lookup`: the function is found by making the tables of all that are known.

    Tables of other functions, of several in a row, and of functions whose operator has one grid
    only, are looked up, which is exact.
    """
    source = arguments(node)["q"]
    before, after, table = to.grid(source), to.grid(node), to.tensor(node, "table")
    index = to.operand(source)
    if torch.equal(requant_table(before, after), table) and _whole(after):
        return to.emit(Kind.QUANTIZE, [index], to.result(node))
    grid = to.result(node).grid
    for function, kind, fixed, options in _FUNCTIONS:
        if fixed in (None, grid) and torch.equal(lookup_table(function, before, after), table):
            return to.emit(kind, [index], to.result(node), options)
    return _looked_up(to, node, index, table)


def _whole(grid: QParams) -> bool:
    """Whether a grid uses all 8 bits, as the integers of the format do."""
    whole = torch.iinfo(grid.dtype)
    return (grid.lo, grid.hi) == (whole.min, whole.max)


def _looked_up(to: Exporter, node: Node, index: int, table: Tensor) -> int:
    """From integers to places in the table, which are int32, and what stands there."""
    shape = to.stored(index).shape
    wide = to.like(index, shape, dtype="int32", grid=None)
    kinds: dict[int, Value] = {0: byte(TypeCode.INT8), 1: byte(TypeCode.INT32)}
    place = to.emit(Kind.CAST, [index], wide, (_CAST, kinds))
    first = to.constant(np.array(-_LEAST, np.int32))
    place = to.emit(Kind.ADD, [place, first], wide, (_ADD, {0: byte(0)}))
    entries = to.constant(as_stored(table), to.result(node).grid, f"{node.name}.table")
    options = (_GATHER, {0: Number(0)})
    return to.emit(Kind.GATHER, [entries, place], to.result(node), options)


_SIGMOID = Quantization((1 / 256,), (-128,))  # the only grids of these results
_TANH = Quantization((1 / 128,), (0,))

_Function = tuple[
    Callable[[Tensor], Tensor],
    Kind,
    Quantization | None,
    tuple[int, Mapping[int, Value]] | None,
]
_FUNCTIONS: tuple[_Function, ...] = (
    (F.relu, Kind.RELU, None, None),
    (F.hardswish, Kind.HARD_SWISH, None, None),
    (torch.sigmoid, Kind.LOGISTIC, _SIGMOID, None),
    (torch.tanh, Kind.TANH, _TANH, None),
    *(
        (
            partial(F.leaky_relu, negative_slope=slope),
            Kind.LEAKY_RELU,
            None,
            (_LEAKY, {0: Number(slope, "Float32")}),
        )
        for slope in (0.01, 0.1, 0.2)
    ),
)


def _float(kind: Kind) -> Rule:
    return lambda to, node: to.emit(kind, [to.value(node, "self")], to.result(node))


RULES: dict[object, Rule] = {
    qpc_ops.lookup.default: _lookup,
    aten.sigmoid.default: _float(Kind.LOGISTIC),
    aten.tanh.default: _float(Kind.TANH),
    aten.hardswish.default: _float(Kind.HARD_SWISH),
}

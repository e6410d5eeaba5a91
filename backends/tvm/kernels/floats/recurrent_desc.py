"""What recurrent layers of float32 are, and how their weights and gates lie in memory."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Literal

import numpy as np
import numpy.typing as npt

from qpc.backends.tvm.kernels.emit import Index
from qpc.backends.tvm.kernels.kernel import TensorType

Cell = Literal["lstm", "gru", "rnn_tanh", "rnn_relu"]
GATES: dict[Cell, int] = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}
"""How many there are, in PyTorch's order: input, forget, cell, output; reset, update, new."""

Numbers = npt.NDArray[np.float32]


@dataclass(frozen=True)
class RecurrentDesc:
    """`rows` sequences of `steps` steps, in one direction or both, with `hidden` units in each.

    by_rows: whether a sequence lies in memory as a whole, rather than a step of all of them.
    state: whether states to begin with are given; they are zero otherwise.
    """

    cell: Cell
    steps: int
    rows: int
    hidden: int
    directions: int = 1
    by_rows: bool = False
    state: bool = False

    @property
    def gates(self) -> int:
        """How many each unit has."""
        return GATES[self.cell]

    @property
    def states(self) -> int:
        """How many tensors of states there are."""
        return 2 if self.cell == "lstm" else 1

    def row(self, step: Index, row: Index) -> Index:
        """Which of all rows of all steps is that of a sequence at a step."""
        return row * self.steps + step if self.by_rows else step * self.rows + row


def by_unit(values: Numbers, gates: int, lanes: int) -> Numbers:
    """values[gates * hidden, ...] as [blocks of units, gates, lanes, ...], padded with zeros."""
    hidden, rest = len(values) // gates, values.shape[1:]
    blocks = ceil(hidden / lanes)
    whole = np.zeros((gates, blocks * lanes, *rest), np.float32)
    whole[:, :hidden] = values.reshape(gates, hidden, *rest)
    apart = whole.reshape(gates, blocks, lanes, *rest).swapaxes(0, 1)
    return np.ascontiguousarray(apart.reshape(-1, *rest))


def gate_width(desc: RecurrentDesc, lanes: int) -> int:
    """How many numbers of gates a row has, with those of units that do not exist."""
    return desc.directions * ceil(desc.hidden / lanes) * desc.gates * lanes


Types = tuple[TensorType, ...]


def types_of(desc: RecurrentDesc, lanes: int) -> tuple[Types, Types, Types]:
    """Of inputs, constants and results."""
    width, rows = gate_width(desc, lanes), desc.steps * desc.rows
    units = width // desc.gates
    state = TensorType((desc.directions, desc.rows, desc.hidden), "float32")
    states = (state,) * desc.states
    inputs = (TensorType((rows, width), "float32"), *(states if desc.state else ()))
    params = [TensorType((width * desc.hidden,), "float32")]
    if desc.cell == "gru":
        params.append(TensorType((units,), "float32"))
    out = TensorType((rows, desc.directions * desc.hidden), "float32")
    return inputs, tuple(params), (out, *states)

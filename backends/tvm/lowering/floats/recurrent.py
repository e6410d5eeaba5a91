"""Recurrent layers of floats: for each of them a linear layer over all steps, and a loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import numpy.typing as npt
from torch import Tensor
from tvm import relax

from qpc.backends.tvm.kernels.floats.product import LinearDesc, linear
from qpc.backends.tvm.kernels.floats.recurrent import recurrent
from qpc.backends.tvm.kernels.floats.recurrent_desc import (
    Cell,
    RecurrentDesc,
    by_unit,
)
from qpc.backends.tvm.lowering.floats.call import FloatCall
from qpc.backends.tvm.lowering.floats.rule import FloatRule, KernelWriter, dtype_of, shape_of
from qpc.calls import aten

_Numbers = npt.NDArray[np.float32]


@dataclass(frozen=True)
class _Direction:
    """The parameters of one direction of a layer; biases are zeros where there are none."""

    of_input: _Numbers
    of_state: _Numbers
    input_bias: _Numbers
    state_bias: _Numbers

    def bias(self, cell: Cell) -> _Numbers:
        """What is added to the gates of the input; GRU's new gate adds the other one later."""
        if cell != "gru":
            return self.input_bias + self.state_bias
        added = self.state_bias.copy()
        added[-len(self.of_state) // 3 :] = 0
        return self.input_bias + added


def _recurrent(cell: Cell) -> KernelWriter:
    return lambda call: _by_layers(call, cell)


def _by_layers(call: FloatCall, cell: Cell) -> relax.Expr | None:
    args, x = call.args, call.args["input"]
    layers = _layers(call, cell)
    if layers is None or dtype_of(x) != "float32" or x.ty.ndim != 3 or not prod(shape_of(x)):
        return None
    if args["train"] and args["dropout"]:
        return None
    given = args["hx"] if isinstance(args["hx"], list | tuple) else [args["hx"]]
    if any(dtype_of(state) != "float32" for state in given):
        return None
    zeros = _are_zeros(call)
    states: list[list[relax.Expr]] = [[] for _ in given]
    for number, directions in enumerate(layers):
        begin = [] if zeros else [_of_layer(call, state, number, len(layers)) for state in given]
        x, last = _layer(call, cell, x, directions, begin)
        for found, state in zip(states, last, strict=True):
            found.append(state)
    joined = [found[0] if len(found) == 1 else _joined(call, found) for found in states]
    return call.emit.builder.emit(relax.Tuple([x, *joined]))


def _layers(call: FloatCall, cell: Cell) -> list[list[_Direction]] | None:
    """The parameters of all layers; None if they are not known, or LSTM's states are projected."""
    params = call.lists.get("params")
    directions, each = 1 + bool(call.args["bidirectional"]), 4 if call.args["has_biases"] else 2
    count = call.args["num_layers"] * directions * each
    if params is None or len(params) != count or any(p.dtype.itemsize != 4 for p in params):
        return None
    parts = [_direction(params[i : i + each]) for i in range(0, count, each)]
    return [parts[i : i + directions] for i in range(0, len(parts), directions)]


def _direction(params: Sequence[Tensor]) -> _Direction:
    of_input, of_state, *biases = (p.detach().float().numpy() for p in params)
    none = np.zeros(len(of_input), np.float32)
    input_bias, state_bias = biases or (none, none)
    return _Direction(of_input, of_state, input_bias, state_bias)


def _are_zeros(call: FloatCall) -> bool:
    """Whether the states to begin with are known to be zero."""
    one = call.tensors.get("hx")
    known = call.lists.get("hx", () if one is None else (one,))
    return bool(known) and not any(bool(state.any()) for state in known)


def _of_layer(call: FloatCall, state: relax.Expr, number: int, layers: int) -> relax.Expr:
    """The states[directions, rows, hidden] of one layer."""
    if layers == 1:
        return state
    directions = shape_of(state)[0] // layers
    first = number * directions
    return call.emit.builder.emit(relax.op.strided_slice(state, [0], [first], [first + directions]))


def _joined(call: FloatCall, states: list[relax.Expr]) -> relax.Expr:
    return call.emit.builder.emit(relax.op.concat(states, axis=0))


def _layer(
    call: FloatCall,
    cell: Cell,
    x: relax.Expr,
    directions: Sequence[_Direction],
    begin: Sequence[relax.Expr],
) -> tuple[relax.Expr, list[relax.Expr]]:
    """The states of all steps of one layer, and the last state or states."""
    by_rows = bool(call.args["batch_first"])
    first, second, inputs = shape_of(x)
    steps, rows = (second, first) if by_rows else (first, second)
    hidden = directions[0].of_state.shape[1]
    desc = RecurrentDesc(cell, steps, rows, hidden, len(directions), by_rows, bool(begin))
    lanes = call.isa.lanes
    weight = np.concatenate([by_unit(d.of_input, desc.gates, lanes) for d in directions])
    bias = np.concatenate([by_unit(d.bias(cell), desc.gates, lanes) for d in directions])
    about = LinearDesc(steps * rows, inputs, len(weight), bias=True)
    made = linear(call.isa, about, weight, bias, call.threads)
    gates = call.kernel(made, [x], made.output.shape)
    biases = [d.state_bias[-hidden:] for d in directions] if cell == "gru" else []
    loop = recurrent(call.isa, desc, [d.of_state for d in directions], biases, call.threads)
    out, *last = call.results(loop, [gates, *begin])
    return call.emit.view(out, (first, second, len(directions) * hidden)), last


RULES: dict[object, FloatRule] = {
    aten.gru.input: FloatRule(kernel=_recurrent("gru")),
    aten.lstm.input: FloatRule(kernel=_recurrent("lstm")),
    aten.rnn_relu.input: FloatRule(kernel=_recurrent("rnn_relu")),
    aten.rnn_tanh.input: FloatRule(kernel=_recurrent("rnn_tanh")),
}

"""Recurrent layers, which stay in float.

A hidden unit is one unit of pruning: its rows of all gates, its column of the weights that read the
last step, and what reads it afterwards. Without weights and biases, and with a state that begins
with zero, it is zero at every step, so that removing it changes nothing else.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch.fx import Node

from qpc.calls import arguments, aten
from qpc.channels.atoms import Labels, spread
from qpc.channels.flow import describe, pin_inputs
from qpc.registry import OpSpec, Quantization, Role, overloads

if TYPE_CHECKING:
    from qpc.channels.flow import Flow

_RECURRENT = Quantization(Role.RECURRENT)
_GATES = {
    aten.lstm.input: 4,
    aten.gru.input: 3,
    aten.rnn_tanh.input: 1,
    aten.rnn_relu.input: 1,
}
_NAMES = "lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell"
_ZEROS = (aten.zeros.default, aten.new_zeros.default, aten.zeros_like.default)


def _channels(flow: Flow, node: Node) -> list[Labels]:
    """Each layer consumes channels of the one before, and produces its hidden units."""
    given = arguments(node)
    per_layer = 4 if given["has_biases"] else 2
    if why := _refuse(flow, node, per_layer):
        return [pin_inputs(flow, node, f"{describe(node)} {why}")]
    units = flow.line(node, given["input"], -1)
    states = [flow.line(node, state, -1) for state in _states(node)]
    for first in range(0, len(given["params"]), per_layer):
        units = _layer(flow, node, given["params"][first : first + per_layer], units)
        for state in states:  # one tensor for the states of all layers, which have one size
            flow.atoms.unite(state, units, f"{describe(node)} has layers of one size")
    units = flow.atoms.find(units)
    rank = len(flow.shape(given["input"]))
    return [spread(units, -1, (*(1,) * (rank - 1), len(units)))]


def _refuse(flow: Flow, node: Node, per_layer: int) -> str | None:
    """Why the hidden units of a call have to stay; None if they may go."""
    given = arguments(node)
    if given["bidirectional"]:
        return "runs in both directions"
    if any(flow.parameter(part) is None for part in given["params"]):
        return "computes its parameters"
    if len(given["params"]) != per_layer * given["num_layers"]:
        return "projects its state"
    if any(state.target not in _ZEROS for state in _states(node)):
        return "begins with a state of its own"
    others = [user for user in node.users if user.args[1] != 0 and user.users]
    return "returns its state" if others else None


def _states(node: Node) -> list[Node]:
    """What a call begins with: hidden states, and cells of an LSTM."""
    given = arguments(node)["hx"]
    return list(given) if isinstance(given, list | tuple) else [given]


def _layer(flow: Flow, node: Node, parts: list[Node], incoming: Labels) -> Labels:
    """The hidden units of one layer: weights by input and by state, and a bias for each."""
    by_input, by_state, *biases = parts
    flow.consume(by_input, 1, incoming)
    rows = flow.produce(by_input, 0)
    gates = rows.reshape(_GATES[node.target], -1)  # type: ignore[index]  # it is an overload
    why = f"{describe(node)} has gates of one size"
    flow.atoms.unite(gates, gates[:1].expand_as(gates), why)
    units = flow.atoms.find(gates[0])
    again = flow.produce(by_state, 0)
    flow.atoms.unite(again, rows, why)
    flow.consume(by_state, 1, units)
    for bias in biases:
        flow.attach(node, bias, 0, rows)
    return flow.atoms.find(units)


SPECS = (
    *(OpSpec(t, quantization=_RECURRENT, channels_together=_channels) for t in _GATES),
    *(OpSpec(t, quantization=_RECURRENT) for t in overloads(_NAMES)),
)

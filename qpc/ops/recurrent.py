"""Recurrent layers, which stay in float."""

from __future__ import annotations

from qpc.registry import OpSpec, Quantization, Role, overloads

_RECURRENT = Quantization(Role.RECURRENT)
_NAMES = (
    "lstm.input gru.input rnn_tanh.input rnn_relu.input lstm_cell gru_cell rnn_tanh_cell "
    "rnn_relu_cell"
)
SPECS = tuple(OpSpec(target, quantization=_RECURRENT) for target in overloads(_NAMES))

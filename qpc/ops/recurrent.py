"""Recurrent layers, which stay in float."""

from __future__ import annotations

from qpc.registry import Role, specs_of_names

_NAMES = """
lstm.input gru.input rnn_tanh.input rnn_relu.input lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell
"""
SPECS = specs_of_names(_NAMES, Role.RECURRENT)

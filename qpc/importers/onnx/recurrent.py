"""ONNX operators in PyTorch: recurrent layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from qpc.importers.onnx.values import Call, Rule

_GATES: Mapping[str, Sequence[int]] = {"RNN": (0,), "GRU": (1, 0, 2), "LSTM": (0, 2, 3, 1)}
"""Which gates of ONNX's PyTorch has in their places: of an LSTM i, o, f, c become i, f, c, o."""
_FUNCTIONS = {"RNN": ["Tanh"], "GRU": ["Sigmoid", "Tanh"], "LSTM": ["Sigmoid", "Tanh", "Tanh"]}


def _recurrent(
    call: Call,
    x: Tensor,
    weights: Tensor,
    recurrences: Tensor,
    biases: Tensor | None = None,
    lengths: Tensor | None = None,
    *states: Tensor | None,
) -> tuple[Tensor, ...]:
    """RNN, GRU and LSTM: all values [steps, directions, batch, width], and the last states."""
    if lengths is not None or any(state is not None for state in states[2:]):
        raise call.refuse("lengths of sequences and peepholes are not read")
    directions, _, width = recurrences.shape
    activation = _checked(call, directions)
    swap = call.get("layout", 0) == 1  # then the batch comes first
    x = x.transpose(0, 1) if swap else x
    backwards = call.get("direction", "forward") == "reverse"
    x = x.flip(0) if backwards else x
    given = [*states[:2], None, None][: 2 if call.kind == "LSTM" else 1]
    zeros = x.new_zeros(directions, x.shape[1], width)
    first = [zeros if s is None else s.transpose(0, 1) if swap else s for s in given]
    params: list[Tensor] = []
    for place in range(directions):
        params += [_ordered(call.kind, t[place], width) for t in (weights, recurrences)]
        if biases is not None:
            params += [_ordered(call.kind, half, width) for half in biases[place].chunk(2)]
    run: Any = getattr(torch, "rnn_relu" if activation == "Relu" else activation)
    state: Any = first if call.kind == "LSTM" else first[0]
    shape = biases is not None, 1, 0.0, False, directions == 2, False
    made, *last = run(x, state, params, *shape)
    made = made.flip(0) if backwards else made
    made = made.reshape(*made.shape[:2], directions, width)
    made = made.permute(1, 0, 2, 3) if swap else made.permute(0, 2, 1, 3)
    return (made, *(s.transpose(0, 1) if swap else s for s in last))


def _checked(call: Call, directions: int) -> str:
    """PyTorch's name for the layer; raises for what it cannot compute."""
    if call.get("clip") is not None or call.get("input_forget", 0):
        raise call.refuse("clip and input_forget are not read")
    if call.kind == "GRU" and not call.get("linear_before_reset", 0):
        raise call.refuse("linear_before_reset=0 is not read")
    wanted = _FUNCTIONS[call.kind] * directions
    given = [w.decode() if isinstance(w, bytes) else w for w in call.get("activations") or wanted]
    if call.kind == "RNN" and given == ["Relu"] * directions:
        return "Relu"
    if given != wanted:
        raise call.refuse(f"activations={given!r} is not read")
    return "rnn_tanh" if call.kind == "RNN" else call.kind.lower()


def _ordered(kind: str, rows: Tensor, width: int) -> Tensor:
    """The gates of a weight or bias [gates * width, ...] in PyTorch's order."""
    parts = rows.split(width)
    return torch.cat([parts[place] for place in _GATES[kind]])


RULES: Mapping[str, Rule] = dict.fromkeys(_GATES, _recurrent)

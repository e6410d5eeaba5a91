"""Shapes of recurrent layers, which PyTorch finds by going through all steps.

While it captures a model it runs its decomposition of LSTM, GRU and RNN, thousands of calls for a
long sequence, of which only the shapes of the results are kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._C import DispatchKey
from torch._ops import OpOverload

from qpc.calls import aten

_DECOMPOSED = DispatchKey.CompositeImplicitAutograd


@contextmanager
def quick_recurrent_shapes() -> Iterator[None]:
    """Within it, recurrent layers of tensors without values yield tensors of the right shapes."""
    operators: dict[OpOverload[..., Any], Callable[..., object]] = {
        aten.lstm.input: _lstm,
        aten.gru.input: _one_state,
        aten.rnn_tanh.input: _one_state,
        aten.rnn_relu.input: _one_state,
    }
    before = {operator: operator.py_kernels.get(_DECOMPOSED) for operator in operators}
    try:
        for operator, function in operators.items():
            _replace(operator, function)
        yield
    finally:
        for operator, own in before.items():
            _replace(operator, own)


def _replace(operator: OpOverload[..., Any], function: Callable[..., object] | None) -> None:
    if function is None:
        operator.py_kernels.pop(_DECOMPOSED, None)
    else:
        operator.py_kernels[_DECOMPOSED] = function
    operator._dispatch_cache.clear()


def _lstm(
    x: Tensor,
    hx: Sequence[Tensor],
    params: Sequence[Tensor],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return (*_results(x, hx[0], bidirectional), torch.empty_like(hx[1]))


def _one_state(
    x: Tensor,
    hx: Tensor,
    params: Sequence[Tensor],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Tensor, Tensor]:
    return _results(x, hx, bidirectional)


def _results(x: Tensor, hidden: Tensor, bidirectional: bool) -> tuple[Tensor, Tensor]:
    """What every step yields, and the last state."""
    width = hidden.shape[-1] * (2 if bidirectional else 1)
    return x.new_empty((*x.shape[:-1], width)), torch.empty_like(hidden)

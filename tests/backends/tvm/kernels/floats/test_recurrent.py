"""Recurrent layers, against PyTorch."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

pytest.importorskip("tvm", reason="needs Apache TVM")

import tvm

from qpc.backends.tvm.kernels.floats.recurrent import recurrent
from qpc.backends.tvm.kernels.floats.recurrent_desc import (
    GATES,
    Cell,
    RecurrentDesc,
    by_unit,
    gate_width,
)
from qpc.backends.tvm.kernels.isa.base import Isa
from qpc.backends.tvm.kernels.kernel import Kernel
from qpc.targets import Target
from tests.backends.tvm.kernels.conftest import NOT_PLAIN

pytestmark = [pytest.mark.tvm, pytest.mark.parametrize("target", NOT_PLAIN, indirect=True)]

Array = npt.NDArray[Any]
INPUTS = 4


def _run(target: Target, kernel: Kernel, *inputs: Array) -> list[Array]:
    llvm = {"kind": "llvm", "mtriple": target.triple, "mattr": list(target.mattr)}
    library = tvm.compile(tvm.IRModule({kernel.name: kernel.func}), tvm.target.Target(llvm))
    results = [np.full(o.shape, 99, o.dtype) for o in (kernel.output, *kernel.more)]
    tensors = [tvm.runtime.tensor(a) for a in (*inputs, *kernel.params, *results)]
    library[kernel.name](*tensors)
    return [t.numpy() for t in tensors[-len(results) :]]


def _layer(cell: Cell, hidden: int, directions: int) -> nn.Module:
    given = {"bidirectional": directions == 2, "bias": False}
    if cell in ("lstm", "gru"):
        gated: type[nn.LSTM | nn.GRU] = nn.LSTM if cell == "lstm" else nn.GRU
        return gated(INPUTS, hidden, **given)
    return nn.RNN(INPUTS, hidden, nonlinearity=cell.removeprefix("rnn_"), **given)


@pytest.mark.parametrize(
    ("cell", "rows", "hidden", "directions"),
    [
        ("lstm", 8, 21, 2),
        pytest.param("lstm", 1, 40, 1, marks=pytest.mark.slow),
        pytest.param("gru", 1, 40, 2, marks=pytest.mark.slow),
        ("gru", 3, 5, 1),
        pytest.param("rnn_tanh", 7, 16, 1, marks=pytest.mark.slow),
        ("rnn_relu", 2, 33, 1),
    ],
)
def test_states_are_those_of_pytorch(
    target: Target, isa: Isa, cell: Cell, rows: int, hidden: int, directions: int
) -> None:
    torch.manual_seed(0)
    layer, desc = (
        _layer(cell, hidden, directions),
        RecurrentDesc(cell, 5, rows, hidden, directions, state=True),
    )
    weights = {k: v.detach().numpy() for k, v in layer.named_parameters()}
    x = torch.randn(desc.steps, rows, INPUTS)
    begin = [torch.randn(directions, rows, hidden) for _ in range(desc.states)]
    of_input = np.concatenate(
        [by_unit(w, GATES[cell], isa.lanes) for k, w in weights.items() if "ih" in k]
    )
    gates = x.reshape(-1, INPUTS).numpy() @ of_input.T
    assert gates.shape[1] == gate_width(desc, isa.lanes)
    of_state = [w for k, w in weights.items() if "hh" in k]
    biases = [np.zeros(hidden, np.float32)] * (directions if cell == "gru" else 0)
    given = (gates, *(state.numpy() for state in begin))
    kernels = [recurrent(isa, desc, of_state, biases, threads) for threads in (1, 3)]
    got, shared = (_run(target, kernel, *given) for kernel in kernels)
    with torch.no_grad():
        y, last = layer(x, tuple(begin) if len(begin) == 2 else begin[0])
    wanted = [y.reshape(len(gates), -1), *(last if isinstance(last, tuple) else (last,))]
    for mine, pytorchs, with_threads in zip(got, wanted, shared, strict=True):
        np.testing.assert_allclose(mine, pytorchs.numpy(), rtol=1e-5, atol=2e-6)
        np.testing.assert_array_equal(mine, with_threads)


def test_more_steps_are_no_more_code(isa: Isa) -> None:
    weight = [np.zeros((12, 3), np.float32)]
    texts = [
        str(recurrent(isa, RecurrentDesc("lstm", steps, 1, 3), weight).func)
        for steps in (10, 100_000)
    ]
    plain = [re.sub(r"\d+", "n", re.sub("_[0-9a-f]{12}", "", text)) for text in texts]
    assert plain[0] == plain[1]

"""Shapes of recurrent layers, without going through their steps."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from qpc.backends.common.decompose import concrete
from qpc.calls import aten
from qpc.capture.recurrent import quick_recurrent_shapes
from qpc.capture.trace import trace
from qpc.shapes import shapes_of


class Everything(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        y, states = self.layer(x)
        return (y, *states) if isinstance(states, tuple) else (y, states)


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize(
    "layer",
    [
        nn.LSTM(4, 6, num_layers=2, bidirectional=True, proj_size=3, batch_first=True),
        nn.GRU(4, 6),
        nn.RNN(4, 6, bidirectional=True),
        nn.RNN(4, 6, nonlinearity="relu", num_layers=2),
    ],
)
def test_results_have_pytorchs_shapes(layer: nn.Module) -> None:
    x = torch.randn(5, 3, 4)
    model = Everything(layer).eval()
    gm = trace(model, x)
    (output,) = [n for n in gm.graph.nodes if n.op == "output"]
    found = shapes_of(gm, {n: tuple(x.shape) for n in gm.graph.nodes if n.op == "placeholder"})
    assert [found[n] for n in output.args[0]] == [concrete(y) for y in model(x)]
    for got, wanted in zip(gm(x), model(x), strict=True):
        torch.testing.assert_close(got, wanted)


def test_long_sequences_take_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._decomp import decompositions

    def never(*_: object) -> None:
        raise AssertionError("went through the steps")

    monkeypatch.setattr(decompositions, "one_layer_lstm", never)
    gm = trace(Everything(nn.LSTM(2, 3)), torch.zeros(100_000, 1, 2), check=False)
    assert [n.target for n in gm.graph.nodes if n.name == "lstm"] == [aten.lstm.input]


def test_pytorchs_own_decompositions_are_put_back() -> None:
    before = dict(aten.lstm.input.py_kernels)
    with quick_recurrent_shapes():
        assert aten.lstm.input.py_kernels != before
    assert aten.lstm.input.py_kernels == before

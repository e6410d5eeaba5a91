"""Hidden units of recurrent layers are units of pruning: removed is as good as zero."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

import qpc
from qpc.channels.groups import analyze_channels
from qpc.lineage import lineage
from qpc.pruning.allocation import Uniform
from qpc.pruning.magnitude import L1
from qpc.testing import traced

X = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0))


class Steps(nn.Module):
    """A recurrent layer between two linear ones."""

    def __init__(
        self, kind: Callable[..., nn.Module], *, state: bool = False, **options: Any
    ) -> None:
        super().__init__()
        width = 8 * (1 + bool(options.get("bidirectional")))
        self.a, self.z = nn.Linear(4, 6), nn.Linear(options.get("proj_size") or width, 3)
        self.recurrent = kind(6, 8, batch_first=True, **options)
        self.state = state

    def forward(self, x: Tensor) -> Tensor:
        y, last = self.recurrent(self.a(x))
        if self.state:
            y = y + last.transpose(0, 1)
        made: Tensor = self.z(y)
        return made


def without(gm: GraphModule, pruned: GraphModule) -> GraphModule:
    """The graph with zeros in the rows that are gone from the other."""
    with torch.no_grad():
        for (name, axis), left in lineage(pruned).items():
            parameter = gm.get_parameter(name)
            if axis == 0:
                gone = [i for i in range(len(parameter)) if i not in left.kept]
                parameter[gone] = 0
    return gm


@pytest.mark.parametrize(
    ("kind", "options", "gates"),
    [
        (nn.LSTM, {"num_layers": 2}, 4),
        (nn.GRU, {"bias": False}, 3),
        (nn.RNN, {"nonlinearity": "relu"}, 1),
    ],
)
def test_hidden_units_go_with_their_gates(
    kind: type[nn.RNNBase], options: dict[str, Any], gates: int
) -> None:
    gm = traced(Steps(kind, **options), X)
    pruned = qpc.prune(gm, L1(), Uniform(0.5))
    last = f"recurrent.weight_hh_l{options.get('num_layers', 1) - 1}"
    assert tuple(pruned.get_parameter(last).shape) == (gates * 4, 4)
    assert tuple(pruned.get_parameter("recurrent.weight_ih_l0").shape) == (gates * 4, 3)
    torch.testing.assert_close(pruned(X), without(gm, pruned)(X), rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize(
    ("model", "why"),
    [
        (Steps(nn.LSTM, bidirectional=True), "runs in both directions"),
        (Steps(nn.LSTM, proj_size=3), "projects its state"),
        (Steps(nn.GRU, state=True), "returns its state"),
    ],
)
def test_others_stay_whole_and_say_why(model: nn.Module, why: str) -> None:
    analysis = analyze_channels(traced(model, X))
    assert any(text.endswith(why) for text in analysis.declined.values())

"""The pruning report names every layer, what it lost, and why the rest stayed."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

import qpc
from qpc.errors import PassError
from qpc.pruning.allocation import Uniform
from qpc.pruning.magnitude import L1


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(torch.relu(self.norm(self.conv(x))).mean((2, 3)))
        return y


def test_every_layer_is_there_before_and_after() -> None:
    gm = qpc.trace(Net(), torch.randn(1, 3, 8, 8))
    report = qpc.pruning_report(gm, qpc.prune(gm, L1(), Uniform(0.5)))
    rows = {row.before.layer: row for row in report.layers}
    assert list(rows) == ["conv", "norm", "head"]
    conv, head = rows["conv"], rows["head"]
    assert conv.after is not None
    assert (conv.before.channels, conv.after.channels) == (8, 4)
    assert (conv.before.parameters, conv.after.parameters) == (8 * 28, 4 * 28)
    assert (conv.before.macs, conv.after.macs) == (8 * 27 * 36, 4 * 27 * 36)
    assert head.pinned == ("it reaches the output of the graph",)
    assert conv.group != head.group
    assert report.before.macs - report.after.macs == 4 * 27 * 36 + 4 * 4


def test_the_table_shows_changes_and_totals() -> None:
    gm = qpc.trace(Net(), torch.randn(1, 3, 8, 8))
    lines = str(qpc.pruning_report(gm, qpc.prune(gm, L1(), Uniform(0.5)))).splitlines()
    assert lines[0].split() == ["layer", "channels", "parameters", "MACs", "group"]
    assert "8 -> 4" in lines[1]
    assert lines[3].endswith("it reaches the output of the graph")
    assert lines[-1].startswith("total")


def test_a_model_that_was_not_traced_is_refused() -> None:
    gm = qpc.trace(nn.Linear(3, 4), torch.zeros(1, 3))
    for pair in ((gm, nn.Linear(3, 4)), (nn.Linear(3, 4), gm)):
        with pytest.raises(PassError, match="pruning_report needs a traced graph, got Linear"):
            qpc.pruning_report(*cast(Any, pair))

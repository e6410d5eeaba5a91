"""A small network with all that a report tells, and its report, once for all tests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

import qpc
from qpc.backends.profile import KernelTime, Machine, Profile
from qpc.explanation.evaluation import Score
from qpc.meta import label
from qpc.reporting.collect import report_of
from qpc.reporting.data import Report

RUN = {
    "metric": "top-1",
    "limit": 0.9,
    "best": "round 1",
    "models": [
        {"name": "before", "metric": 0.94, "macs": 9000, "latency_ms": None, "pareto": ["macs"]},
        {"name": "round 1", "metric": 0.92, "macs": 4000, "latency_ms": 0.5, "pareto": ["macs"]},
    ],
}


class Net(nn.Module):
    """Two ways that meet again, and a function that stays beside the integers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        """Scores of four classes."""
        x = torch.relu(self.first(x))
        scores: Tensor = self.head(torch.relu(x + self.second(x)).mean((2, 3)))
        return scores


@dataclass(frozen=True)
class Made:
    """The graphs, the batch, a profile that was thought up, and the report."""

    reference: GraphModule
    integer: GraphModule
    batch: Tensor
    report: Report


def profile_of(gm: GraphModule) -> Profile:
    """Ten microseconds for each layer."""
    machine = Machine(100.0, {1 << 20: 50.0}, 0.1)
    named = [label(n) for n in gm.graph.nodes if "conv2d" in n.name or "linear" in n.name]
    calls = [KernelTime.of("qpc_layer", (name,), 10.0, 1000, 100, machine) for name in named]
    return Profile(tuple(calls), 35.0, 1, 1, machine)


@pytest.fixture(scope="session")
def made() -> Made:
    torch.manual_seed(0)
    batch = torch.randn(4, 3, 8, 8)
    reference = qpc.trace(Net().eval(), batch)
    integer = qpc.quantize(reference, [batch])
    scores = (
        Score("float", 4, 0.75, 1.0, 1.0, 0.0, 0, 1.0),
        Score("graph", 4, 0.5, 1.0, 0.75, 0.01, 3, 1.0),
    )
    given: dict[str, Any] = {"scores": scores, "run": RUN, "settings": "bits: 8\n"}
    report = report_of(
        reference, integer, [batch], profile=profile_of(integer), title="</script><b>&", **given
    )
    return Made(reference, integer, batch, report)

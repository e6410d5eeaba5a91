"""A package outside of QPC brings a criterion, with public names alone."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

import qpc
from qpc.pruning.allocation import Uniform
from qpc.testing import traced
from tests.public_names import private_names

PACKAGE = Path(__file__).parent / "data" / "sample_extras"


@pytest.fixture
def extras(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(PACKAGE)
    return importlib.import_module("sample_extras")


def test_the_package_uses_public_names_alone() -> None:
    assert private_names(PACKAGE) == set()


def test_channels_go_by_its_scores(extras: ModuleType) -> None:
    first = nn.Linear(2, 3)
    model = nn.Sequential(first, nn.ReLU(), nn.Linear(3, 1))
    with torch.no_grad():
        first.weight.copy_(torch.tensor([[0.1, 0.9], [0.5, 0.5], [0.8, 0.8]]))
    pruned = qpc.prune(traced(model, torch.ones(1, 2)), extras.LargestWeight(), Uniform(0.34))
    expected = torch.tensor([[0.1, 0.9], [0.8, 0.8]])  # L1 would have kept the same sums
    assert torch.equal(pruned.get_parameter("0.weight"), expected)


def test_texts_know_it_by_its_name(extras: ModuleType) -> None:
    criterion = extras.LargestWeight(power=2.0)
    text = qpc.to_yaml(criterion)
    assert text.startswith("criterion:\n  kind: largest-weight\n")
    assert qpc.from_yaml(text) == criterion
    assert qpc.from_yaml("criterion: largest-weight") == extras.LargestWeight()

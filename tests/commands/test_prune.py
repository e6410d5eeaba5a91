"""How much goes with `qpc prune`, and of what."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.commands.conftest import answer, invoke

NETWORK = """
from torch import nn


def model():
    return nn.Sequential(nn.Linear(8, 30), nn.ReLU(), nn.Linear(30, 2))
"""


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("network.py").write_text(NETWORK)


def pruned(*options: str) -> dict[str, Any]:
    words = ("prune", "network.py:model", "--input", "1x8", "--out", "smaller", *options)
    return answer(invoke(*words, "--json"))


def test_three_tenths_of_the_multiplications_go_and_the_settings_are_kept() -> None:
    found = pruned()
    assert (found["macs"], found["channels"]) == ([300, 210], [32, 23])
    assert found["parameters"] == [8 * 30 + 30 + 30 * 2 + 2, 8 * 21 + 21 + 21 * 2 + 2]
    assert [row["after"]["channels"] for row in found["layers"]] == [21, 2]
    assert Path("smaller/settings.yaml").read_text().splitlines()[-4:] == [
        *("amount: 0.3", "of: macs", "criterion: l1", "allocation: global"),
    ]


def test_the_amount_is_of_what_is_said() -> None:
    assert pruned("--amount", "0.5", "--of", "channels")["channels"] == [32, 16]
    assert pruned("--amount", "0.5", "--of", "parameters")["parameters"] == [332, 167]

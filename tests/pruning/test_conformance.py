"""Every network of the conformance set computes the same without channels as with masked ones."""

from __future__ import annotations

from collections import Counter
from functools import cache

import pytest
import torch
from torch import Tensor
from torch.fx import GraphModule

from qpc.base import PassContext
from qpc.capture.trace import batch_is_dynamic, trace
from qpc.channels.groups import ChannelAnalysis, analyze_channels
from qpc.facts import CORE_FORM
from tests.conftest import GOLDEN_FOLDER, Golden
from tests.pruning.conformance import CASES, Case
from tests.pruning.running import (
    CHOICES,
    TOLERANCE,
    Pruned,
    prune,
    same_for_each_sample,
    wrong_shapes,
)

NAMES = [case.name for case in CASES]
EACH = [
    pytest.param(case, id=case.name, marks=[] if case.quick else pytest.mark.slow) for case in CASES
]
GOLDEN = "prunable_channels"

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")


def test_the_set_has_at_least_150_networks_of_different_names() -> None:
    assert len(set(NAMES)) == len(NAMES)
    assert sum(case.quick for case in CASES) >= 150


MIXES_SAMPLES = frozenset({"attention_of_torch_sequence_first", "sum_over_everything"})
"""Attention runs over axis 0, which is the sequence there; a sum is over all samples."""


@pytest.mark.every(6)
@pytest.mark.parametrize("case", EACH)
def test_removed_is_as_good_as_masked(case: Case) -> None:
    gm, inputs = traced(case)
    choice = list(CHOICES)[NAMES.index(case.name) % len(CHOICES)]  # the slow test takes all
    pruned = pruned_by(case, choice)
    assert pruned.error <= TOLERANCE, choice
    assert CORE_FORM.check(pruned.gm) is None
    assert wrong_shapes(pruned.gm) == []
    assert (parameters(pruned.gm) < parameters(gm)) == bool(pruned.units)
    if batch_is_dynamic(gm) and case.name not in MIXES_SAMPLES:
        assert same_for_each_sample(pruned.gm, inputs) <= TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("case", EACH)
@pytest.mark.parametrize("choice", CHOICES)
def test_removed_is_as_good_as_masked_for_every_choice_of_channels(case: Case, choice: str) -> None:
    for seed in range(3):
        assert pruned_by(case, choice, seed).error <= TOLERANCE, seed


@pytest.mark.every(6)
@pytest.mark.parametrize(
    "case",
    [
        pytest.param(c, id=c.name, marks=[pytest.mark.slow] * (i % 8 > 0))
        for i, c in enumerate(CASES)
    ],
)
def test_a_pruned_network_is_pruned_again(case: Case) -> None:
    _, inputs = traced(case)
    once = pruned_by(case, "50 %", seed=1).gm
    analysis = analyze_channels(once, heads=case.heads)
    units = CHOICES["50 %"](analysis, 2)
    assert prune(once, inputs, units, heads=case.heads, analysis=analysis).error <= TOLERANCE


@pytest.mark.every(4)
@pytest.mark.parametrize("case", EACH)
def test_as_many_channels_can_go_as_should(case: Case) -> None:
    expected = (GOLDEN_FOLDER / f"{GOLDEN}.txt").read_text(encoding="utf-8").splitlines()
    ours = [line for line in expected if line.startswith(f"{case.name}: ")]
    assert ours == [described(case)], "slow tests with --update-golden accept it"


@pytest.mark.slow
def test_all_networks_are_in_the_golden_file(golden: Golden) -> None:
    golden(GOLDEN, "\n".join(described(case) for case in CASES))


@pytest.mark.parametrize("case", EACH)
def test_whatever_stays_has_a_reason(case: Case) -> None:
    """Each group has a unit that may go, or a reason for each that may not."""
    for group in analyzed(case).groups:
        reasons = [unit.pinned for unit in group.units if unit.pinned is not None]
        assert len(reasons) + len(group.prunable) == len(group.units)
        assert all(reasons)


# --- traced once for all tests --------------------------------------------------------------------


@cache
def _traced(name: str) -> tuple[GraphModule, tuple[Tensor, ...]]:
    case = CASES[NAMES.index(name)]
    model, inputs = case.network()
    return trace(model, inputs, check=False), inputs


def traced(case: Case) -> tuple[GraphModule, tuple[Tensor, ...]]:
    return _traced(case.name)


@cache
def _analyzed(name: str) -> ChannelAnalysis:
    return analyze_channels(_traced(name)[0], heads=CASES[NAMES.index(name)].heads)


def analyzed(case: Case) -> ChannelAnalysis:
    return _analyzed(case.name)


def pruned_by(case: Case, choice: str, seed: int = 0, ctx: PassContext | None = None) -> Pruned:
    gm, inputs = traced(case)
    units = CHOICES[choice](analyzed(case), seed)
    return prune(gm, inputs, units, heads=case.heads, ctx=ctx, analysis=analyzed(case))


def parameters(gm: GraphModule) -> int:
    tensors = [*gm.parameters(), *gm.buffers()]
    return sum(t.numel() for t in tensors if t.dtype != torch.bool)


def described(case: Case) -> str:
    """`name: 8/8 4/8 0/2; reason (how many)`: prunable units by group, and why others stay."""
    groups = analyzed(case).groups
    counts = " ".join(f"{len(group.prunable)}/{len(group.units)}" for group in groups)
    reasons = Counter(unit.pinned for group in groups for unit in group.units if unit.pinned)
    return "; ".join([f"{case.name}: {counts}", *(f"{why} ({n})" for why, n in reasons.items())])

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from qpc.pruning.granularity import Elements
from qpc.pruning.weight_rules import Chosen, NOfM, Ratio, Threshold, WeightRule

W = torch.tensor([[2.0, 0, 4, 1], [3, 5, 0, 2], [1, 0, 6, 0], [0, 3, 0, 7]])


def kept(rule: WeightRule, weight: Tensor) -> Tensor:
    (keep,) = rule.keep([Elements().scores(weight)])
    return keep


def test_by_default_a_threshold_keeps_what_equals_it() -> None:
    twos = [W[0, 0], W[1, 3]]
    masked = W * kept(Threshold(2), W)
    assert masked.tolist() == [[2, 0, 4, 0], [3, 5, 0, 2], [0, 0, 6, 0], [0, 3, 0, 7]]
    assert [masked[0, 0], masked[1, 3]] == twos


def test_the_other_threshold_rule_removes_what_equals_it() -> None:
    masked = W * kept(Threshold(2, equal_stays=False), W)
    assert masked.tolist() == [[0, 0, 4, 0], [3, 5, 0, 0], [0, 0, 6, 0], [0, 3, 0, 7]]


def test_a_ratio_removes_the_smallest_weights() -> None:
    masked = W * kept(Ratio(0.75), W)
    assert masked.tolist() == [[0, 0, 4, 0], [0, 5, 0, 0], [0, 0, 6, 0], [0, 0, 0, 7]]


def test_of_equal_scores_the_later_ones_go_first() -> None:
    assert kept(Ratio(0.5), torch.ones(2, 3)).tolist() == [[True] * 3, [False] * 3]
    assert kept(NOfM(1, 3), torch.ones(1, 3)).tolist() == [[True, False, False]]


def test_weights_that_are_not_a_number_stay() -> None:
    weight = torch.tensor([[torch.nan, 1.0, torch.inf, 3.0]])
    assert kept(Ratio(0.5), weight).tolist() == [[True, False, True, False]]


def test_a_ratio_over_the_model_compares_weights_of_all_layers() -> None:
    small, large = torch.full((2, 2), 1.0), torch.full((2, 2), 9.0)
    alone = [k.sum().item() for k in Ratio(0.5).keep([small, large])]
    together = [k.sum().item() for k in Ratio(0.5, over="model").keep([small, large])]
    assert (alone, together) == ([2, 2], [0, 4])
    assert Ratio(0.5, over="model").keep([]) == []


@given(st.integers(1, 6), st.integers(1, 9), st.floats(0, 1), st.sampled_from(["layer", "model"]))
def test_a_ratio_is_exact_whatever_the_scores(
    out: int, inputs: int, fraction: float, over: str
) -> None:
    scores = [torch.randint(0, 3, (out, inputs)).float(), torch.zeros(2, inputs)]
    keep = Ratio(fraction, over=over).keep(scores)  # type: ignore[arg-type]  # both are legal
    if over == "model":
        scores, keep = [torch.cat(scores)], [torch.cat(keep)]
    assert [k.numel() - k.sum().item() for k in keep] == [
        round(fraction * s.numel()) for s in scores
    ]


@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 5), st.integers(1, 3))
def test_n_of_every_m_input_channels_stay_and_they_are_the_greatest(
    n: int, more: int, blocks: int, kernel: int
) -> None:
    m = n + more - 1
    weight = torch.randn(3, blocks * m, kernel)
    keep = kept(NOfM(n, m), weight)
    cut = keep.reshape(3, blocks, m, kernel)
    assert bool((cut.sum(2) == n).all())
    values = weight.abs().reshape(cut.shape)
    least_kept = values.where(cut, torch.inf).amin(2)
    greatest_gone = values.where(~cut, -torch.inf).amax(2)
    assert bool((least_kept >= greatest_gone).all())


def test_a_tail_of_input_channels_keeps_as_many_as_a_whole_block_would() -> None:
    weight = torch.tensor([[1.0, 2, 3, 4, 7, 6, 5]])
    assert kept(NOfM(2, 4), weight).int().tolist() == [[0, 0, 1, 1, 1, 1, 0]]
    assert kept(NOfM(2, 4), weight[:, :5]).int().tolist() == [[0, 0, 1, 1, 1]]


def test_chosen_pieces_go() -> None:
    scores = torch.zeros(4, 1)
    assert Chosen((1, 3)).keep([scores])[0].flatten().tolist() == [True, False, True, False]


@pytest.mark.parametrize("rule", [Threshold(1.0), Ratio(0.4), NOfM(2, 4)])
@given(seed=st.integers(0, 1000))
def test_masking_what_is_masked_changes_nothing(rule: WeightRule, seed: int) -> None:
    weight = torch.randn(4, 8, generator=torch.Generator().manual_seed(seed))
    once = kept(rule, weight)
    assert torch.equal(kept(rule, weight * once), once)


@pytest.mark.parametrize(
    ("build", "text"),
    [
        (lambda: Threshold(-1), "value must be at least 0, got -1"),
        (lambda: Threshold(float("nan")), "value must be at least 0, got nan"),
        (lambda: Ratio(1.5), r"fraction must be from 0 to 1, got 1\.5"),
        (
            lambda: Ratio(0.5, over="world"),  # type: ignore[arg-type]  # wrong on purpose
            "over must be 'layer' or 'model', got 'world'",
        ),
        (lambda: NOfM(5, 4), "n must be from 1 to m, got n=5, m=4"),
        (lambda: Chosen((4,)).keep([W[0]]), "there are 4 pieces, none with index 4"),
    ],
)
def test_refuses_impossible_rules(build: object, text: str) -> None:
    assert callable(build)
    with pytest.raises(ValueError, match=text):
        build()

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qpc.pruning.granularity import Blocks, Elements, Granularity, columns, kernels, rows

W = torch.tensor([[2.0, 0, 4, 1], [3, 5, 0, 2], [1, 0, 6, 0], [0, 3, 0, 7]])


def test_every_element_is_scored_by_its_absolute_value() -> None:
    assert torch.equal(Elements().scores(-W), W)


def test_rows_are_scored_by_the_sum_of_absolute_values_or_the_root_of_the_sum_of_squares() -> None:
    assert rows("l1").scores(-W).tolist() == [[7], [10], [7], [10]]
    squares = rows("l2").scores(W).square()
    assert torch.allclose(squares, torch.tensor([[21.0], [38], [37], [58]]).double())


def test_columns_run_over_all_outputs() -> None:
    assert columns("l1").scores(W).tolist() == [[6, 8, 10, 10]]


def test_blocks_at_the_edges_are_smaller() -> None:
    assert Blocks(3, 2, norm="l1").scores(W).tolist() == [[11, 13], [3, 7]]


def test_an_average_lets_small_blocks_compare_with_large_ones() -> None:
    ones = torch.ones(5, 5, 3)
    assert set(Blocks(3, 2, norm="l1", average=True).scores(ones).flatten().tolist()) == {1.0}
    roots = Blocks(3, 2, norm="l2", average=True, whole_kernels=True).scores(ones)
    assert torch.allclose(roots, torch.ones(2, 3, 1).double())
    assert Blocks(3, 2, norm="l1").scores(ones)[:, 0, 0].tolist() == [6, 4]


def test_blocks_are_cut_at_each_kernel_position_or_over_whole_kernels() -> None:
    weight = torch.arange(2 * 2 * 3).reshape(2, 2, 3).float()
    assert Blocks(2, 2, norm="l1").scores(weight).tolist() == [[[18, 22, 26]]]
    whole = Blocks(2, 2, norm="l1", whole_kernels=True)
    assert whole.scores(weight).tolist() == [[[66]]]
    assert kernels("l1").scores(weight).tolist() == [[[3], [12]], [[21], [30]]]


def test_a_decision_is_spread_over_the_block() -> None:
    keep = torch.tensor([[True, False], [False, True]])
    spread = Blocks(3, 2).spread(keep, torch.Size([4, 3]))
    assert spread.int().tolist() == [[1, 1, 0], [1, 1, 0], [1, 1, 0], [0, 0, 1]]
    one_row = rows().spread(torch.tensor([[[False]], [[True]]]), torch.Size([2, 2, 2]))
    assert one_row.flatten(1).int().tolist() == [[0] * 4, [1] * 4]


sizes = st.integers(1, 5)


@given(sizes, sizes, st.integers(1, 3), sizes, sizes, st.booleans())
def test_a_block_that_goes_alone_leaves_the_norm_of_all_the_others(
    out: int, inputs: int, kernel: int, high: int, wide: int, whole: bool
) -> None:
    weight = torch.rand(out, inputs, kernel, generator=torch.Generator().manual_seed(out)) + 0.1
    blocks: Granularity = Blocks(high, wide, whole_kernels=whole, norm="l1")
    scores = blocks.scores(weight)
    keep = torch.ones_like(scores, dtype=torch.bool)
    keep[-1, -1, -1] = False
    after = blocks.scores(weight * blocks.spread(keep, weight.shape))
    assert torch.allclose(after, scores * keep)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"outputs": 0}, "outputs must be at least 1, got 0"),
        ({"inputs": -1}, "inputs must be at least 1, got -1"),
        ({"norm": "max"}, "norm must be 'l1' or 'l2', got 'max'"),
    ],
)
def test_refuses_impossible_blocks(options: dict[str, object], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Blocks(**options)  # type: ignore[arg-type]  # wrong on purpose

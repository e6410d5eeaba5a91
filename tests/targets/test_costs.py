from dataclasses import replace

import pytest

from qpc.errors import UnsupportedTargetError
from qpc.targets import TARGETS
from qpc.targets.costs import NEON_COSTS, Costs, MatrixCosts, Sharing


def test_a_single_task_or_thread_has_nothing_to_share() -> None:
    sharing = Sharing(launch=100, task=10)
    assert sharing.cost(tasks=1, threads=2) == sharing.cost(tasks=9, threads=1) == 0
    assert sharing.cost(tasks=9, threads=2) == 100 + 5 * 10


def test_costs_are_part_of_a_target_and_compare_by_value() -> None:
    assert {hash(target.costs) for target in TARGETS} == {hash(Costs()), hash(NEON_COSTS)}
    other = replace(TARGETS[0], name="mine", costs=replace(Costs(), scratch_bytes=16 * 1024))
    assert other.costs != TARGETS[0].costs
    assert hash(other) != hash(TARGETS[0])


def test_costs_of_a_target_are_costs() -> None:
    with pytest.raises(UnsupportedTargetError, match="costs of a target must be Costs, got 3"):
        replace(TARGETS[0], costs=3)  # type: ignore[arg-type]  # which is what is wrong


def test_an_epilogue_takes_as_many_vectors_at_a_time_as_is_fastest() -> None:
    costs = MatrixCosts(epilogue={1: 15, 2: 18, 4: 28})
    assert [costs.epilogue_of(vectors) for vectors in (1, 2, 3, 4, 8)] == [15, 18, 28, 28, 56]


def test_costs_can_be_counted_in_longer_dots() -> None:
    before, found = Costs(), Costs().in_dots_of(3, 2)
    assert found.vectors.epilogue == pytest.approx(before.vectors.epilogue * 2 / 3)
    assert found.vectors.fetch == before.vectors.fetch
    assert (found.sharing.launch, found.sharing.task) == (2667, 1333)
    assert (found.winograd, found.depthwise) == (before.winograd, before.depthwise)

"""What layers take: the table that needs no backend, and who knows better."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import pytest

from qpc.errors import UnsupportedTargetError
from qpc.targets import Target, times
from qpc.targets.times import LayerShape, VectorTimes, layer_times, require_target

CONV = LayerShape(8, 8, (10, 10), (3, 3), padding=(1, 1))


@dataclass(frozen=True)
class Flat:
    """Everything takes a second."""

    name: str = "a clock that stands still"

    def time(self, layer: LayerShape) -> float:
        return 1.0


def vector(inputs: int, outputs: int, groups: int = 1) -> float:
    return VectorTimes(8).time(LayerShape(inputs, outputs, kernel=(1, 1), groups=groups))


def test_a_part_of_a_vector_takes_as_long_as_a_whole_one() -> None:
    assert vector(16, 9) == vector(16, 16) == 2 * vector(16, 8)
    assert vector(13, 8) == vector(16, 8) > vector(12, 8)


def test_a_depthwise_layer_takes_a_vector_of_bytes_at_a_time() -> None:
    assert vector(32, 32, 32) == vector(20, 20, 20)
    assert vector(33, 33, 33) == 2 * vector(32, 32, 32)


def test_each_group_has_vectors_of_its_own() -> None:
    assert vector(16, 8, 2) == 2 * vector(8, 4)


def test_a_layer_without_channels_takes_no_time() -> None:
    assert vector(0, 8) == vector(8, 0) == 0


def test_positions_are_outputs_or_for_transposed_layers_inputs() -> None:
    assert CONV.positions == 100
    assert LayerShape(8, 8, (10, 8), (3, 3), (2, 2), dilation=(2, 1)).positions == 3 * 3
    assert LayerShape(8, 8, (10, 8), (2, 2), (2, 2), transposed=True).positions == 80


def test_an_estimate_of_ones_own_is_taken_as_it_is() -> None:
    mine = Flat()
    assert layer_times(mine) is mine
    require_target(mine)


def test_without_the_backend_vectors_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(times, "_PROVIDER", "qpc.no_such_module")
    assert layer_times("x86-64-avx2") == VectorTimes(8)
    assert layer_times(Target.parse("x86-64-avx512-vnni")) == VectorTimes(16)


def test_a_machine_that_nothing_compiles_for_prunes_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def none() -> Target:
        raise UnsupportedTargetError("no target for this machine")

    monkeypatch.setattr(Target, "native", staticmethod(none))
    assert layer_times() == VectorTimes(8)


def test_an_unknown_target_is_refused() -> None:
    with pytest.raises(UnsupportedTargetError, match="unknown target 'x86-64-avx3'"):
        layer_times("x86-64-avx3")
    with pytest.raises(UnsupportedTargetError, match=r"a name or a qpc\.Target, got int"):
        require_target(cast(Any, 8))

from __future__ import annotations

import math
from pathlib import Path

import pytest

from qpc.errors import ArtifactError
from qpc.precision.result import Effect, Sensitivity, sqnr_db, worst_first

EFFECTS = (
    Effect("weights", "a", 8, 1e-6, 0.9),
    Effect("weights", "a", 4, 1e-2, 0.5),
    Effect("activations", "b", 8, 0.0, 0.9),
    Effect("activations", "b", 4, math.inf, 0.1),
    Effect("channels", "a + b", 0.25, 0.1, 0.7),
)
FOUND = Sensitivity(worst_first(EFFECTS), 0.91, "hash")


def test_the_worst_part_comes_first_and_its_mildest_reduction() -> None:
    assert [(e.name, e.amount) for e in FOUND.effects] == [
        ("b", 8),
        ("b", 4),
        ("a + b", 0.25),
        ("a", 8),
        ("a", 4),
    ]


def test_the_table_has_a_column_for_each_reduction_and_the_metric_after_a_slash() -> None:
    assert str(FOUND) == (
        "SQNR in dB  of               8 bits      4 bits\n"
        "b           activations   inf / 0.9  -inf / 0.1\n"
        "a           weights      60.0 / 0.9  20.0 / 0.5\n"
        "SQNR in dB  of                 -25%\n"
        "a + b       channels     10.0 / 0.7\n"
        "metric in float: 0.91"
    )
    assert "weights" not in FOUND.table(most=1)


def test_json_holds_everything() -> None:
    assert Sensitivity.from_json(FOUND.to_json()) == FOUND
    assert FOUND.of("weights", "a", 4) == EFFECTS[1]
    assert FOUND.of("weights", "a", 3) is None


@pytest.mark.parametrize("text", ["", "[]", '{"format": "x"}', '{"format": "qpc-sensitivity-1"}'])
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(ArtifactError, match="this text is no sensitivity of a model"):
        Sensitivity.from_json(text)


def test_decibels_are_those_of_signal_over_noise() -> None:
    assert sqnr_db(1e-3) == pytest.approx(30)
    assert sqnr_db(0.0) == math.inf
    assert sqnr_db(math.inf) == -math.inf


def test_a_picture_replaces_the_one_before_and_must_be_writable(tmp_path: Path) -> None:
    for _ in range(2):
        FOUND.plot(tmp_path / "plot.svg")
    assert (tmp_path / "plot.svg").read_text().startswith("<svg")
    with pytest.raises(ArtifactError, match=r"cannot write '.*plot\.svg'"):
        FOUND.plot(tmp_path / "nowhere" / "plot.svg")

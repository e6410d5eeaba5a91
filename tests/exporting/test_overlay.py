from __future__ import annotations

import json
from math import inf, nan

import pytest

from qpc.errors import ConfigError
from qpc.exporting.overlay import BAD, GOOD, overlay


def test_numbers_by_tensor_and_colours_from_bad_to_good() -> None:
    made = json.loads(overlay({"relu": 30.0, "add": 12.5, "same": inf}, name="SQNR dB"))
    assert made["name"] == "SQNR dB"
    assert made["results"] == {
        "relu": {"value": 30.0},
        "add": {"value": 12.5},
        "same": {"value": 30.0},
    }
    assert [made["gradient"][i]["bgColor"] for i in (0, -1)] == [BAD, GOOD]


def test_where_less_is_better_colours_are_the_other_way_round() -> None:
    made = json.loads(overlay({"relu": 0.25}, name="ms", more_is_better=False))
    assert [made["gradient"][i]["bgColor"] for i in (0, -1)] == [GOOD, BAD]


def test_numbers_that_are_none_are_refused() -> None:
    with pytest.raises(ConfigError, match="the number of 'relu' is NaN"):
        overlay({"relu": nan}, name="SQNR dB")
    with pytest.raises(ConfigError, match="there are no numbers to show"):
        overlay({}, name="SQNR dB")

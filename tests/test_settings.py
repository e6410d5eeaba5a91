from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import Field

from qpc.errors import ConfigError, QPCError
from qpc.settings import (
    Settings,
    require_choice,
    require_count,
    require_kind,
    require_number,
    require_patterns,
)


class Inner(Settings):
    size: int = Field(default=1, ge=1, strict=True)


class Outer(Settings):
    inner: Inner = Inner()
    many: tuple[Inner, ...] = ()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"inner": {"size": 0}}, "inner.size: Input should be greater than or equal to 1, got 0"),
        ({"many": [{}, {"size": "2"}]}, "many[1].size: Input should be a valid integer, got '2'"),
        ({"inner": 3}, "inner: Input should be a valid dictionary or instance of Inner, got 3"),
        ({"iner": {}}, "iner: Extra inputs are not permitted"),
    ],
)
def test_a_wrong_field_is_named_with_its_path_however_settings_are_made(
    fields: Any, message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        Outer(**fields)
    assert str(caught.value) == f"Outer: {message}"
    with pytest.raises(ConfigError) as caught:
        Outer.model_validate(fields)
    assert str(caught.value) == f"Outer: {message}"


def test_an_error_of_settings_is_an_error_of_qpc_and_a_value_error() -> None:
    with pytest.raises(QPCError):
        Inner(size=0)
    with pytest.raises(ValueError, match=r"^Inner: size: .*, got 0$"):
        Inner(size=0)


def test_settings_are_made_again_not_changed() -> None:
    with pytest.raises(ConfigError, match="Inner is frozen: its 'size' cannot be set") as caught:
        Inner().size = 2
    assert caught.value.fix == "make another one: Inner(...)"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (1.5, "x must be from 0 to 1, got 1.5"),
        (-1, "x must be from 0 to 1, got -1"),
        (float("nan"), "x must be from 0 to 1, got nan"),
        (True, "x must be a number, from 0 to 1, got True"),
        ("0.5", "x must be a number, from 0 to 1, got '0.5'"),
        (None, "x must be a number, from 0 to 1, got None"),
    ],
)
def test_numbers_have_limits(value: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        require_number("x", value, 0, 1)
    assert str(caught.value) == message


def test_limits_may_be_open_or_exclusive() -> None:
    require_number("x", 1e9, 0)
    require_number("x", np.float32(0.5), 0, 1)
    require_number("x", 0, 0)
    with pytest.raises(ConfigError, match="x must be at least 0, got -1"):
        require_number("x", -1, 0)
    with pytest.raises(ConfigError, match="x must be greater than 0, got 0"):
        require_number("x", 0, 0, above=True)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (0, "n must be at least 1, got 0"),
        (2.0, "n must be a whole number, at least 1, got 2.0"),
        (True, "n must be a whole number, at least 1, got True"),
        ("3", "n must be a whole number, at least 1, got '3'"),
    ],
)
def test_counts_are_whole(value: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        require_count("n", value)
    assert str(caught.value) == message
    require_count("n", np.int64(3))


def test_a_choice_is_one_of_the_words() -> None:
    require_choice("norm", "l1", ("l1", "l2", "max"))
    for value in ("l3", None, ["l1"]):
        with pytest.raises(ConfigError, match=r"^norm must be 'l1', 'l2' or 'max', got "):
            require_choice("norm", value, ("l1", "l2", "max"))


def test_a_class_in_place_of_its_object_is_told_apart() -> None:
    require_kind("inner", Inner(), Inner, "an Inner")
    with pytest.raises(ConfigError, match="inner must be an Inner, got dict") as caught:
        require_kind("inner", {}, Inner, "an Inner", fix="Inner()")
    assert caught.value.fix == "Inner()"
    with pytest.raises(ConfigError, match="inner must be an Inner, got the class Inner") as caught:
        require_kind("inner", Inner, Inner, "an Inner", fix="Inner()")
    assert caught.value.fix == "make one: Inner(...)"


def test_patterns_are_texts() -> None:
    require_patterns("heads", "*.attention")
    require_patterns("heads", ("a", "b"))
    for value in (None, ["a"], ("a", 3)):
        with pytest.raises(ConfigError, match="heads must be a pattern or a tuple of patterns"):
            require_patterns("heads", value)

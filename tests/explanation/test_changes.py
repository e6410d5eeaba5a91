from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from qpc.explanation.changes import Island, changes_of
from qpc.explanation.own_errors import Errors
from qpc.explanation.result import Change, LayerExplained

ERRORS = Errors((), noise=1e-4, varying=1.0)  # outputs at 40 dB
WELL = LayerExplained(
    "well (conv)", "conv", "well", "conv2d", 100, 8, "integer", own_noise=9e-5, local_noise=1e-4
)


def row(name: str, **fields: Any) -> LayerExplained:
    """A layer of which the outputs hardly depend."""
    return replace(WELL, name=name, node=name, module=name, own_noise=1e-9, **fields)


def first(*rows: LayerExplained, islands: tuple[Island, ...] = ()) -> Change:
    return changes_of(rows, islands, ERRORS, 100.0 if islands else None, {})[0]


def test_what_is_broken_comes_first_although_these_outputs_hardly_show_it() -> None:
    wrong = row("wrong", local_noise=0.09, gain=1.3)
    assert first(WELL, wrong).layer == "wrong"
    assert first(WELL, wrong).score == pytest.approx(0.3), "its values are off by so much"
    clipped = row("clipped", local_noise=0.09, clipped=0.2, reach=2.0)
    assert first(WELL, clipped).layer == "clipped"


def test_a_slow_operator_comes_before_rounding_that_does_little_harm() -> None:
    slow = row("slow", form="float", why_float="it has no integer form", us=40.0)
    errors = Errors((), noise=0.01, varying=1.0)  # 20 dB, by one layer
    island = Island(slow, (slow,), 0.0)
    found = changes_of([WELL], [island], errors, 100.0, {})
    assert [change.layer for change in found] == ["slow", "well (conv)"]
    assert [change.score for change in found] == pytest.approx([0.4, 0.05])


def test_rounding_that_makes_the_outputs_worthless_comes_before_what_is_a_bit_slow() -> None:
    slow = row("slow", form="float", why_float="it has no integer form", us=40.0)
    errors = Errors((), noise=0.9, varying=1.0)
    found = changes_of([WELL], [Island(slow, (slow,), 0.0)], errors, 100.0, {})
    assert [change.layer for change in found] == ["well (conv)", "slow"]


def test_rounding_to_few_bits_is_no_wrong_scale() -> None:
    rough = replace(WELL, weight_bits=3, local_noise=0.05, gain=1.04, own_noise=0.05)
    found = changes_of([rough], (), Errors((), 0.05, 1.0), None, {})[0]
    assert found.cause.startswith("its weights have 3 bits")
    assert found.what == "give them more bits"


def test_a_model_without_noise_needs_no_change() -> None:
    assert changes_of([replace(WELL, own_noise=0.0)], (), ERRORS, None, {}) == ()


def test_rounding_at_a_border_is_not_mended_by_what_is_in_float_already() -> None:
    at = {"conv": "let each row have a range of its own"}
    errors = Errors((), noise=0.01, varying=1.0)
    (found,) = changes_of([WELL], (), errors, None, {}, borders=at)
    assert found.what == "let each row have a range of its own"
    (found,) = changes_of([WELL], (), errors, None, {})
    assert found.what == "keep it in float: `qpc quantize` with --float well"

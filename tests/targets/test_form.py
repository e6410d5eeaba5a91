import json
from dataclasses import fields, is_dataclass, replace
from typing import Any

import pytest

from qpc.errors import UnsupportedTargetError
from qpc.targets import PRESETS, TARGETS, Target
from qpc.targets.costs import Costs, MatrixCosts, Sharing, WinogradCosts
from qpc.targets.data import Board
from qpc.targets.form import decode_target, encode_target

OWN = replace(
    TARGETS[-1],
    name="mine",
    cpu="skylake",
    tuning=("-prefer-256-bit",),
    counter=None,
    board=Board(flash=1000, ram=2000),
    c_flags=("-O2",),
    emulated="max",
    costs=Costs(
        sharing=Sharing(launch=7, task=3),
        matrices=MatrixCosts(epilogue={1: 9, 3: 11}, fetch_per_byte=1 / 3),
        winograd=WinogradCosts(transform={2: 1, 6: 5}, far=1.1),
        line_bytes=128,
    ),
)


def through_text(target: Target, *, costs: bool = True) -> Target:
    return decode_target(json.loads(json.dumps(encode_target(target, costs=costs))))


@pytest.mark.parametrize("target", [*TARGETS, *PRESETS, OWN], ids=lambda target: target.name)
def test_a_target_comes_back_with_its_types(target: Target) -> None:
    back = through_text(target)
    assert back == target
    assert repr(back) == repr(target)  # which names what is kept of it, and tells 1 from 1.0
    assert hash(back) == hash(target)


def test_every_field_is_written() -> None:
    def check(thing: Any, form: dict[str, Any]) -> None:
        assert list(form) == [field.name for field in fields(thing)]
        for name, part in form.items():
            if is_dataclass(value := getattr(thing, name)):
                check(value, part)

    check(OWN, encode_target(OWN))


def test_without_costs_it_has_all_that_code_needs_to_run() -> None:
    assert "costs" not in encode_target(OWN, costs=False)
    plain = replace(OWN, costs=Costs(), board=Board(), c_flags=(), emulated=None)
    assert through_text(OWN, costs=False) == plain


def changed(**changes: object) -> dict[str, Any]:
    return encode_target(OWN) | changes


def with_costs(**changes: object) -> dict[str, Any]:
    form = encode_target(OWN)
    return form | {"costs": form["costs"] | changes}


NO_FORMS: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({}, "target.name: Field required"),
    "a field more": (changed(speed=1), "target.speed: Unexpected keyword argument"),
    "a number as text": (changed(vector_lanes="16"), "target.vector_lanes: Input should be a va"),
    "a text for a list": (
        changed(features="avx2"),
        "target.features: Input should be a valid array",
    ),
    "a number of a name": (changed(features=[2]), r"target.features\[0\]: Input should be a valid"),
    "a cost more": (with_costs(speed=1), "target.costs.speed: Unexpected keyword argument"),
    "a cost as text": (with_costs(line_bytes="64"), "target.costs.line_bytes: Input should be a v"),
    "a word as a key": (
        with_costs(matrices={"epilogue": {"one": 1}}),
        "target.costs.matrices.epilogue.one.*: Input should be a valid integer",
    ),
}


@pytest.mark.parametrize("case", NO_FORMS)
def test_what_is_no_target_is_refused(case: str) -> None:
    form, text = NO_FORMS[case]
    with pytest.raises(ValueError, match=text):
        decode_target(form)


def test_a_field_less_is_refused() -> None:
    form = encode_target(OWN)
    del form["counter"]
    with pytest.raises(ValueError, match=r"target\.counter: Field required"):
        decode_target(form)


def test_what_no_target_can_have_is_refused_like_elsewhere() -> None:
    with pytest.raises(UnsupportedTargetError, match="vector_lanes of a target must be one of"):
        decode_target(changed(vector_lanes=3))

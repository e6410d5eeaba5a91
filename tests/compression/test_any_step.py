from __future__ import annotations

import pytest
from pydantic import ValidationError
from pydantic_core import PydanticCustomError

from qpc.compression.any_step import read_step, step_schema
from qpc.compression.pass_step import PassStep
from qpc.compression.steps import FineTune
from qpc.yaml_form import PASSES


def test_a_name_alone_is_a_step_with_its_defaults() -> None:
    assert read_step("fine-tune") == FineTune(epochs=1)
    assert read_step(FineTune(epochs=2)) == FineTune(epochs=2)
    assert isinstance(read_step("fold-batch-norm"), PassStep)


@pytest.mark.parametrize("value", [3, [], {}, {"kind": 2}, None])
def test_what_is_no_step_is_told(value: object) -> None:
    with pytest.raises(PydanticCustomError, match="a step must be a name, or a mapping with"):
        read_step(value)


def test_every_pass_is_in_the_schema() -> None:
    names = set(step_schema()["anyOf"][0]["enum"])  # type: ignore[index]  # it is a list of these
    assert set(PASSES.names()) <= names


def test_problems_of_a_step_s_settings_keep_their_place() -> None:
    with pytest.raises(PydanticCustomError) as error:
        read_step({"kind": "qat", "config": {"default": {"weight": {"bits": 1}}}})
    assert error.value.context is not None
    assert error.value.context["inner"] == ("config", "default", "weight", "bits")
    assert not isinstance(error.value, ValidationError)

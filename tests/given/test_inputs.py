from __future__ import annotations

import pytest
import torch

from qpc.errors import ConfigError
from qpc.given.inputs import examples, inputs_of_text


def test_inputs_are_written_as_shapes_with_dtypes_and_names() -> None:
    (image,) = inputs_of_text(["1x3x8x8"])
    assert (image.name, image.shape, image.dtype) == (None, (1, 3, 8, 8), torch.float32)
    tokens, mask = inputs_of_text(["tokens=2x16:int64", "mask=2x16:bool"])
    assert (tokens.name, tokens.dtype, mask.dtype) == ("tokens", torch.int64, torch.bool)
    assert [each.written for each in (image, tokens)] == ["1x3x8x8", "tokens=2x16:int64"]


def test_examples_are_the_same_every_time_and_zero_for_all_but_floats() -> None:
    one = examples(inputs_of_text(["1x3", "1x4:int64"]))
    assert isinstance(one, tuple)
    again = examples(inputs_of_text(["1x3", "1x4:int64"]))
    assert isinstance(again, tuple)
    assert torch.equal(one[0], again[0])
    assert one[0].std() > 0
    assert torch.equal(one[1], torch.zeros(1, 4, dtype=torch.int64))
    named = examples(inputs_of_text(["x=1x3"]))
    assert isinstance(named, dict)
    assert list(named) == ["x"]


@pytest.mark.parametrize(
    ("texts", "problem"),
    [
        (["3,224"], "the input '3,224' is no shape"),
        (["1x3:float"], "the input '1x3:float' has an unknown dtype 'float'"),
        (["1x0"], "the input '1x0' has 0 values"),
        (["99999x99999x99"], "has 989,980,200,099 values"),
        (["a=1", "2"], "either all inputs have names or none"),
        (["a=1", "a=2"], "two inputs have the same name"),
    ],
)
def test_what_is_no_input_is_refused(texts: list[str], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        inputs_of_text(texts)

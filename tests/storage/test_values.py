"""Arguments come back as they were, types included."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch.fx import Graph

from qpc.storage.values import decode, encode

NODE = Graph().placeholder("x")


@pytest.mark.parametrize(
    "value",
    [
        *(None, True, 1, 1.5, -0.0, "text", [1, (2.0, [])], {"a": 1, 2: {"b": NODE}}),
        *(math.inf, -math.inf, torch.float32, torch.bool, torch.float8_e5m2, torch.strided),
        *(torch.channels_last, torch.contiguous_format, torch.preserve_format),
        *(torch.device("cpu"), NODE),
    ],
    ids=repr,
)
def test_a_value_comes_back_as_it_was(value: object) -> None:
    text = json.dumps(encode(value), allow_nan=False)
    again = decode(json.loads(text), {"x": NODE})
    assert again == value
    assert repr(again) == repr(value)


def test_nan_comes_back() -> None:
    assert math.isnan(decode(encode(math.nan), {}))


def test_what_has_no_form_is_named() -> None:
    for value, name in ((torch.ones(1), "Tensor"), (torch.sparse_coo, "layout"), (slice(1), "sl")):
        with pytest.raises(TypeError, match=f"a value of type {name}.* cannot be saved"):
            encode(value)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({}, "a value has one kind"),
        ({"node": "y"}, "no node 'y' stands before it"),
        ({"node": ["x"]}, "unknown value of kind 'node'"),
        ({"dtype": "Tensor"}, "unknown value of kind 'dtype'"),
        ({"device": "cpu; import os"}, "computes on the CPU, not on 'cpu; import os'"),
        ({"device": "cuda:0"}, "a saved graph computes on the CPU, not on 'cuda:0'"),
        ({"device": "meta"}, "a saved graph computes on the CPU, not on 'meta'"),
        ({"float": "1.0"}, "unknown value of kind 'float'"),
        ({"tuple": 1}, "unknown value of kind 'tuple'"),
        ({"dict": [["a", 1], ["a", 2]]}, "two entries have one key"),
        ({"dict": [[True, 1]]}, "a dictionary has pairs"),
        ({"dict": [1]}, "a dictionary has pairs"),
    ],
)
def test_what_was_not_written_so_is_refused(value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decode(value, {"x": NODE})

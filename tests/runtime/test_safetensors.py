"""Files of tensors are those of the package safetensors, and what is none is one clear error."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch

from qpc.errors import ArtifactError
from qpc.runtime.arrays import Array, ArrayType, Stored
from qpc.runtime.safetensors import read, write

ARRAYS: dict[str, Array] = {
    "w_1": np.arange(6, dtype=np.int8).reshape(2, 3),
    "w_2": np.linspace(-1, 1, 5, dtype=np.float32),
    "w_3": np.zeros((0, 4), np.int16),
    "w_4": np.array(7, np.int64),
    "w_5": np.array([True, False]),
}


def found(data: bytes) -> dict[str, Stored]:
    return read(data, "weights of 'it'", "copy it again")


def test_what_is_written_is_read_by_both() -> None:
    data = write({name: Stored.of(array) for name, array in ARRAYS.items()})
    others = safetensors.numpy.load(data)
    mine = found(data)
    for name, array in ARRAYS.items():
        assert mine[name].array.dtype == array.dtype
        assert np.array_equal(mine[name].array, array)
        assert np.array_equal(others[name], array)


def test_what_the_package_writes_is_read() -> None:
    tensors = {"a": torch.ones(2, 3, dtype=torch.bfloat16), "b": torch.arange(4)}
    read_back = found(safetensors.torch.save(tensors, {"made": "elsewhere"}))
    assert read_back["a"].type == ArrayType((2, 3), "bfloat16")
    assert read_back["a"].array.tolist() == [[0x3F80] * 3] * 2
    assert read_back["b"].array.tolist() == [0, 1, 2, 3]


def test_a_dtype_that_the_format_does_not_have() -> None:
    with pytest.raises(ValueError, match="complex128 cannot be saved"):
        write({"w": Stored.of(np.zeros(3, np.complex128))})


def of(header: Any, values: bytes = b"") -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + values


def about(shape: list[Any], first: Any, last: Any, dtype: str = "I8") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [first, last]}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "it has no header"),
        (struct.pack("<Q", 2**63) + b"{}", "it has no header"),
        (struct.pack("<Q", 2) + b"[]", "it holds no JSON object"),
        (of({"w": 1}), "what it says of 'w' is wrong"),
        (of({"w": about([2], 0, 3)}, b"abc"), "what it says of 'w' is wrong"),
        (of({"w": about([2.0], 0, 2)}, b"ab"), "what it says of 'w' is wrong"),
        (of({"w": about([True], 0, 1)}, b"a"), "what it says of 'w' is wrong"),
        (of({"w": about([-1], 1, 0)}, b"a"), "what it says of 'w' is wrong"),
        (of({"w": about([1] * 65, 0, 1)}, b"a"), "what it says of 'w' is wrong"),
        (of({"w": about([1], 0, 1, "I4")}, b"a"), "what it says of 'w' is wrong"),
        (of({"w": about([1], 0, 1) | {"more": 1}}, b"a"), "what it says of 'w' is wrong"),
        (of({"w": about([2**40] * 9, 0, 1)}, b"a"), "what it says of 'w' is wrong"),
        (of({"w": about([4], 0, 4)}, b"abc"), "'w' ends outside of it"),
        (of({"w": about([2], 0, 2)}, b"abc"), "bytes that belong to no tensor, or to two"),
        (of({"w": about([2], 1, 3)}, b"abc"), "bytes that belong to no tensor, or to two"),
        (of({"v": about([2], 0, 2), "w": about([2], 1, 3)}, b"abc"), "belong to no tensor, or"),
    ],
)
def test_what_is_no_such_file(data: bytes, message: str) -> None:
    with pytest.raises(ArtifactError, match=message) as caught:
        found(data)
    assert str(caught.value).startswith("weights of 'it' is damaged: ")
    assert caught.value.fix == "copy it again"

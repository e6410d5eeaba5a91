from __future__ import annotations

import platform

import numpy as np
import pytest

from qpc.backends.deploy import replay
from qpc.backends.deploy.manifest import PortEntry
from tests.backends.deploy.conftest import Exported


def port(dtype: str, tolerance: float | None) -> PortEntry:
    about = {"name": "y", "dtype": dtype, "shape": [2], "bytes": 8}
    grid = {"scale": None, "zero_point": None, "tolerance": tolerance}
    return PortEntry.model_validate(about | grid)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int32"])
def test_elements_are_compared_as_numbers_where_they_may_differ(dtype: str) -> None:
    found, expected = np.array([1, 4], dtype), np.array([2, 9], dtype)
    raw = [array.view(np.uint8) for array in (found, expected)]
    assert replay._differing(port(dtype, None), *raw).tolist() == [True, True]
    assert replay._differing(port(dtype, 1.0), *raw).tolist() == [False, True]


def test_nan_is_nan_whatever_its_bits_where_elements_may_differ() -> None:
    found, expected = np.array([0xFFC00000, 0x7FC00000], np.uint32), np.array([0x7FC00000, 0])
    raw = found.view(np.uint8), expected.astype(np.uint32).view(np.uint8)
    assert replay._differing(port("float32", None), *raw).tolist() == [True, True]
    assert replay._differing(port("float32", 1.0), *raw).tolist() == [False, True]


def test_brain_floats_are_numbers_too() -> None:
    found, expected = (np.array([bits], np.uint16).view(np.uint8) for bits in (0x3F80, 0x4000))
    assert not replay._differing(port("bfloat16", 1.0), found, expected).any()


def test_it_says_what_the_sample_program_says(
    exported: Exported, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = exported("x86-64")
    if platform.machine() != "x86_64":
        pytest.skip("the shared library is for Linux on x86-64")
    assert replay.main([str(folder), "libnet.so", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "2 cases, all equal"
    assert len(lines) == 3

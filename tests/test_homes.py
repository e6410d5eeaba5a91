"""Homes of operators are found by looking, and define QPC's operators whoever asks first."""

from __future__ import annotations

import subprocess
import sys

import pytest

from qpc.homes import all_homes
from qpc.registry import OpSpec


def test_every_module_of_operators_is_a_home() -> None:
    names = [home.__name__ for home in all_homes()]
    assert {"qpc.ops.clamp", "qpc.ops.convolution"} <= set(names)
    assert names == sorted(names)
    for home in all_homes():
        assert all(isinstance(spec, OpSpec) for spec in home.SPECS), home


@pytest.mark.thorough
@pytest.mark.parametrize(
    "first",
    [
        "import qpc; qpc.Pass",
        "from qpc.calls import qpc_ops; qpc_ops.quantize",
        "from qpc.ops.clamp import IntClamp; from qpc.registry import registered; registered()",
    ],
)
def test_operators_are_defined_as_soon_as_qpc_is_used(first: str) -> None:
    code = f"{first}; import torch; print(torch.ops.qpc.conv2d.default, torch.ops.qpc.lookup)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "qpc.conv2d.default qpc.lookup\n", done.stderr

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

pytest.importorskip("tvm", reason="needs Apache TVM")

from qpc.backends.common.channel_slice import ChannelSlice
from qpc.backends.tvm.kernels.geometry import View
from qpc.backends.tvm.kernels.isa.base import Isa
from qpc.backends.tvm.kernels.resize import resize2d
from qpc.calls import qpc_ops
from qpc.ops.resize import POSITIONS

Array = npt.NDArray[Any]
Run = Callable[..., Array]
pytestmark = pytest.mark.tvm


def _places(size: int, *, linear: bool) -> Array:
    """Seven places of an axis, the ends included."""
    last = (size - 1) * POSITIONS
    places = np.array([0, last, last // 3, last, last // 7, last // 2, 0], np.int32)
    return places if linear else places // POSITIONS * POSITIONS


@pytest.mark.parametrize("linear", [False, True])
@pytest.mark.parametrize("shape", [(2, 5, 4, 3), (1, 3, 9, 80), (1, 1, 1, 1), (1, 2, 2, 64)])
def test_equals_the_definition(isa: Isa, run: Run, shape: tuple[int, ...], linear: bool) -> None:
    x = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    rows, columns = (_places(shape[axis], linear=linear) for axis in (1, 2))
    q = torch.from_numpy(x).permute(0, 3, 1, 2)
    places = torch.from_numpy(rows), torch.from_numpy(columns)
    expected = qpc_ops.resize2d(q, *places, list(q.shape[2:]))
    for threads in (1, 3):
        result = run(resize2d(isa, View(shape), rows, columns, threads), x)
        np.testing.assert_array_equal(result, expected.permute(0, 2, 3, 1).numpy())


@pytest.mark.parametrize("linear", [False, True])
def test_inputs_and_outputs_may_be_a_share_of_larger_images(
    isa: Isa, run: Run, linear: bool
) -> None:
    x = np.random.default_rng(0).integers(0, 256, (2, 5, 4, 26), np.uint8)
    own = np.ascontiguousarray(x[..., 5:-2])
    rows, columns = (_places(x.shape[axis], linear=linear) for axis in (1, 2))
    alone = run(resize2d(isa, View(own.shape), rows, columns), own)
    among = View(own.shape, ChannelSlice(5, 26))
    result = run(resize2d(isa, among, rows, columns, share=ChannelSlice(3, 30)), x)
    np.testing.assert_array_equal(result[..., 3:22], alone)
    assert (result[..., :3] == 99).all()  # what the fixture fills outputs with
    assert (result[..., 22:] == 99).all()


def test_places_on_pixels_are_copied(isa: Isa) -> None:
    x, columns = View((1, 4, 4, 16)), np.array([4096], np.int32)
    on = resize2d(isa, x, np.array([0, 2048], np.int32), columns)
    off = resize2d(isa, x, np.array([0, 2049], np.int32), columns)
    assert on.name != off.name
    assert "shift_right" not in str(on.func)


def test_the_extremes_do_not_overflow(isa: Isa, run: Run) -> None:
    x = np.full((1, 2, 2, 16), 255, np.uint8)
    places = np.array([0, 1, 1023, 1024, 2047], np.int32)
    assert (run(resize2d(isa, View(x.shape), places, places), x) == 255).all()

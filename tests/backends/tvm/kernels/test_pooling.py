from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

pytest.importorskip("tvm", reason="needs Apache TVM")

from qpc.backends.common.channel_slice import ChannelSlice
from qpc.backends.tvm.kernels.epilogue import Requantize
from qpc.backends.tvm.kernels.geometry import View
from qpc.backends.tvm.kernels.isa.choose import Isa
from qpc.backends.tvm.kernels.pooling import PoolWindow, avg_pool2d, max_pool2d, mean

pytestmark = pytest.mark.tvm

Array = npt.NDArray[Any]
Run = Callable[..., Array]
Shape = tuple[int, ...]


def random_bytes(shape: Shape) -> Array:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def requantized(total: Array, numbers: Requantize) -> Array:
    product = total.astype(np.float32) * np.float32(numbers.multiplier)
    result: Array = np.rint(product).astype(np.int64) + numbers.output_zero_point
    return np.clip(result, numbers.lo, numbers.hi).astype(np.uint8)


@pytest.mark.parametrize(
    ("shape", "window"),
    [
        ((1, 8, 8, 64), PoolWindow((3, 3), (2, 2), (1, 1, 1, 1))),
        ((2, 7, 9, 70), PoolWindow((2, 2), (2, 2))),
        ((2, 7, 9, 3), PoolWindow((2, 2), (2, 2), ceil_mode=True)),
        ((1, 7, 10, 5), PoolWindow((3, 4), (3, 2), (1, 2, 1, 2), ceil_mode=True)),
        ((1, 9, 9, 17), PoolWindow((3, 2), (1, 2), (1, 0, 1, 0), dilation=(2, 3))),
        ((1, 4, 4, 8), PoolWindow((2, 2), (3, 3), (1, 1, 1, 1), ceil_mode=True)),
        ((3, 5, 1, 1), PoolWindow((5, 1), (5, 1))),
    ],
)
def test_max_pool_equals_torch(isa: Isa, run: Run, shape: Shape, window: PoolWindow) -> None:
    x = random_bytes(shape)
    x[0] = np.minimum(x[0], 3)
    result = run(max_pool2d(isa, View(shape), window), x)
    expected = torch.nn.functional.max_pool2d(
        torch.from_numpy(x).permute(0, 3, 1, 2).float(),
        window.kernel,
        window.stride,
        window.padding[:2],
        window.dilation,
        window.ceil_mode,
    )
    np.testing.assert_array_equal(result, expected.permute(0, 2, 3, 1).numpy())


@pytest.mark.parametrize("channels", [5, 70])
def test_inputs_and_outputs_may_be_a_share_of_larger_images(
    isa: Isa, run: Run, channels: int
) -> None:
    x, window = random_bytes((2, 4, 5, channels + 9)), PoolWindow((2, 2), (1, 1))
    own = np.ascontiguousarray(x[..., 7:-2])
    alone, among = View(own.shape), View(own.shape, ChannelSlice(7, channels + 9))
    numbers = Requantize(input_zero_point=3, multiplier=0.3, output_zero_point=7)
    share = ChannelSlice(first=3, channels=channels + 8)
    for usual, shared in (
        (max_pool2d(isa, alone, window), max_pool2d(isa, among, window, share=share)),
        (
            avg_pool2d(isa, alone, window, numbers),
            avg_pool2d(isa, among, window, numbers, share=share),
        ),
    ):
        result = run(shared, x)
        np.testing.assert_array_equal(result[..., 3:-5], run(usual, own))
        assert (result[..., :3] == 99).all()  # what the fixture fills outputs with
        assert (result[..., -5:] == 99).all()


def test_max_pool_pads_each_side_on_its_own(isa: Isa, run: Run) -> None:
    x = random_bytes((1, 4, 4, 5))
    result = run(max_pool2d(isa, View(x.shape), PoolWindow((2, 2), (2, 2), (0, 0, 1, 1))), x)
    assert result.shape == (1, 2, 2, 5)
    result = run(max_pool2d(isa, View(x.shape), PoolWindow((2, 2), (2, 2), (1, 1, 1, 1))), x)
    np.testing.assert_array_equal(result[:, 0, 0], x[:, 0, 0])
    np.testing.assert_array_equal(result[:, 1, 2], x[:, 1:3, 3].max(axis=1))


@pytest.mark.parametrize(
    ("shape", "window"),
    [
        ((1, 8, 8, 64), PoolWindow((2, 2), (2, 2))),
        ((2, 7, 9, 19), PoolWindow((3, 2), (2, 1), (1, 1, 1, 1))),
        ((1, 7, 7, 3), PoolWindow((7, 7), (1, 1))),
        ((1, 5, 6, 16), PoolWindow((2, 3), (1, 2), (1, 0, 0, 2))),
    ],
)
@pytest.mark.parametrize("zero_point", [0, 131])
def test_avg_pool_counts_padding_as_zero(
    isa: Isa, run: Run, shape: Shape, window: PoolWindow, zero_point: int
) -> None:
    x = random_bytes(shape)
    numbers = Requantize(zero_point, 1 / (1.7 * np.prod(window.kernel)), 100, 5, 200)
    result = run(avg_pool2d(isa, View(shape), window, numbers), x)
    top, left, bottom, right = window.padding
    padding = [(0, 0), (top, bottom), (left, right), (0, 0)]
    centred = np.pad(x.astype(np.int64) - zero_point, padding)
    windows = np.lib.stride_tricks.sliding_window_view(centred, window.kernel, axis=(1, 2))
    total = windows[:, :: window.stride[0], :: window.stride[1]].sum(axis=(-2, -1))
    np.testing.assert_array_equal(result, requantized(total, numbers))


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        ((2, 7, 7, 70), (1, 2)),
        ((2, 7, 7, 70), (-1,)),
        ((2, 3, 5, 33), (1, 3)),
        ((2, 3, 5, 33), (0, 2)),
        ((4, 5), (0, 1)),
        ((3, 1, 18), (1,)),
        ((3, 18), ()),
    ],
)
@pytest.mark.parametrize("keepdim", [False, True])
def test_mean_equals_the_exact_result(
    isa: Isa, run: Run, shape: Shape, axes: tuple[int, ...], keepdim: bool
) -> None:
    x = random_bytes(shape)
    count = np.prod([shape[axis] for axis in axes])
    numbers = Requantize(77, float(1.5 / count), 90, 3, 251)
    result = run(mean(isa, shape, axes, numbers, keepdim), x)
    total = (x.astype(np.int64) - 77).sum(axis=axes, keepdims=keepdim)
    np.testing.assert_array_equal(result, requantized(total, numbers))


def test_threads_share_the_work(isa: Isa, run: Run) -> None:
    x = random_bytes((3, 40, 9, 100))
    numbers = Requantize(7, 1 / 360, 9)
    result = run(mean(isa, x.shape, (1, 2), numbers, threads=2), x)
    total = (x.astype(np.int64) - 7).sum(axis=(1, 2))
    np.testing.assert_array_equal(result, requantized(total, numbers))


def test_threads_share_the_rows_of_a_pool(isa: Isa, run: Run) -> None:
    x = random_bytes((2, 8, 6, 5))
    result = run(max_pool2d(isa, View(x.shape), PoolWindow((2, 2), (2, 2)), threads=3), x)
    np.testing.assert_array_equal(result, x.reshape(2, 4, 2, 3, 2, 5).max(axis=(2, 4)))


def test_equal_shapes_share_their_code(isa: Isa) -> None:
    window = PoolWindow((2, 2), (2, 2))
    one = avg_pool2d(isa, View((1, 4, 4, 8)), window, Requantize(0, 0.5, 0))
    two = avg_pool2d(isa, View((1, 4, 4, 8)), window, Requantize(1, 0.25, 3))
    assert one.func is two.func
    assert one.name != max_pool2d(isa, View((1, 4, 4, 8)), window).name

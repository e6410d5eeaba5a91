from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

pytest.importorskip("tvm", reason="needs Apache TVM")

from qpc.backends.common.channel_slice import ChannelSlice
from qpc.backends.tvm.kernels.elementwise import MulConstants, add, clamp, lookup, mul
from qpc.backends.tvm.kernels.epilogue import AddTensor
from qpc.backends.tvm.kernels.geometry import View
from qpc.backends.tvm.kernels.isa.choose import Isa

pytestmark = pytest.mark.tvm

Array = npt.NDArray[Any]
Run = Callable[..., Array]
Shape = tuple[int, ...]

SHAPES = [
    pytest.param((2, 3, 5, 7), (2, 3, 5, 7), id="equal"),
    pytest.param((1, 8, 8, 64), (1, 8, 8, 64), id="equal, whole vectors"),
    pytest.param((2, 3, 5, 70), (2, 1, 1, 70), id="one factor per channel"),
    pytest.param((2, 3, 5, 7), (1, 3, 5, 1), id="one factor per pixel"),
    pytest.param((3, 1, 66), (5, 1), id="both broadcast"),
    pytest.param((4, 9), (1,), id="a scalar"),
    pytest.param((1, 1), (3, 70), id="the first is a scalar"),
    pytest.param((), (), id="no dimension"),
]

ADD = AddTensor(
    a_zero_point=9,
    b_zero_point=200,
    a_multiplier=32767,
    b_multiplier=-12345,
    shift=15,
    output_zero_point=130,
    lo=5,
    hi=240,
)
MUL = MulConstants(
    a_zero_point=9, b_zero_point=200, multiplier=0.01, output_zero_point=130, lo=5, hi=240
)


def random_bytes(shape: Shape, seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def exact_sum(a: Array, b: Array, numbers: AddTensor) -> Array:
    total = (a.astype(np.int64) - numbers.a_zero_point) * numbers.a_multiplier
    total = total + (b.astype(np.int64) - numbers.b_zero_point) * numbers.b_multiplier
    total = total + (1 << (numbers.shift - 1) if numbers.shift else 0)
    total = (total >> numbers.shift) + numbers.output_zero_point
    return np.clip(total, numbers.lo, numbers.hi).astype(np.uint8)


def exact_product(a: Array, b: Array, numbers: MulConstants) -> Array:
    product = (a.astype(np.int64) - numbers.a_zero_point) * (
        b.astype(np.int64) - numbers.b_zero_point
    )
    scaled = product.astype(np.float32) * np.float32(numbers.multiplier)
    result: Array = np.rint(scaled).astype(np.int64) + numbers.output_zero_point
    return np.clip(result, numbers.lo, numbers.hi).astype(np.uint8)


@pytest.mark.parametrize(("a_shape", "b_shape"), SHAPES)
def test_add_equals_the_exact_result(isa: Isa, run: Run, a_shape: Shape, b_shape: Shape) -> None:
    a, b = random_bytes(a_shape), random_bytes(b_shape, seed=1)
    result = run(add(isa, View(a_shape), View(b_shape), ADD), a, b)
    np.testing.assert_array_equal(result, exact_sum(a, b, ADD))


@pytest.mark.parametrize(("a_shape", "b_shape"), SHAPES)
def test_mul_equals_the_exact_result(isa: Isa, run: Run, a_shape: Shape, b_shape: Shape) -> None:
    a, b = random_bytes(a_shape), random_bytes(b_shape, seed=1)
    result = run(mul(isa, View(a_shape), View(b_shape), MUL), a, b)
    np.testing.assert_array_equal(result, exact_product(a, b, MUL))


@pytest.mark.parametrize("multiplier", [32767, -32767, 1])
@pytest.mark.parametrize("shift", [0, 1, 22])
def test_add_equals_the_exact_result_at_the_limits(
    isa: Isa, run: Run, multiplier: int, shift: int
) -> None:
    numbers = replace(ADD, a_multiplier=multiplier, b_multiplier=multiplier, shift=shift)
    a, b = random_bytes((64, 64)), random_bytes((64, 64), seed=1)
    a[0], b[0], a[1], b[1] = 0, 0, 255, 255
    result = run(add(isa, View(a.shape), View(b.shape), numbers), a, b)
    np.testing.assert_array_equal(result, exact_sum(a, b, numbers))


@pytest.mark.parametrize("shape", [(53,), (300,), (2, 27), (1, 3, 5, 7), (2, 65536)])
@pytest.mark.parametrize("threads", [1, 2])
def test_lookup_reads_every_entry(isa: Isa, run: Run, shape: Shape, threads: int) -> None:
    table = np.random.default_rng(2).permutation(256).astype(np.uint8)
    x = np.resize(np.arange(256, dtype=np.uint8), shape)
    result = run(lookup(isa, View(shape), table.tobytes(), threads), x)
    np.testing.assert_array_equal(result, table[x])


@pytest.mark.parametrize(("lo", "hi"), [(0, 255), (17, 213), (130, 140)])
def test_clamp_keeps_the_range(isa: Isa, run: Run, lo: int, hi: int) -> None:
    x = random_bytes((3, 5, 77))
    np.testing.assert_array_equal(run(clamp(isa, View(x.shape), lo, hi), x), np.clip(x, lo, hi))


@pytest.mark.parametrize("shapes", [((2, 70, 301), (2, 70, 301)), ((3, 200, 101), (3, 1, 101))])
def test_threads_share_the_work(isa: Isa, run: Run, shapes: tuple[Shape, Shape]) -> None:
    a, b = (random_bytes(shape, seed) for seed, shape in enumerate(shapes))
    result = run(add(isa, View(a.shape), View(b.shape), ADD, threads=3), a, b)
    np.testing.assert_array_equal(result, exact_sum(a, b, ADD))


SHARES = [
    pytest.param(5, id="few channels"),
    pytest.param(1, id="one channel"),
    pytest.param(70, id="more than a vector"),
]


@pytest.mark.parametrize("c", SHARES)
def test_operands_and_results_may_be_shares_of_larger_tensors(isa: Isa, run: Run, c: int) -> None:
    a, b = random_bytes((2, 3, 4, c + 9)), random_bytes((2, 3, 4, c), seed=1)
    own, among = a[..., 7:-2], View((2, 3, 4, c), ChannelSlice(7, c + 9))
    share, table = (
        ChannelSlice(3, c + 8),
        np.random.default_rng(1).permutation(256).astype(np.uint8),
    )
    results = [
        (run(add(isa, among, View(b.shape), ADD, share=share), a, b), exact_sum(own, b, ADD)),
        (run(mul(isa, View(b.shape), among, MUL, share=share), b, a), exact_product(b, own, MUL)),
        (run(lookup(isa, among, table.tobytes(), share=share), a), table[own]),
        (run(clamp(isa, among, 20, 99, share=share), a), np.clip(own, 20, 99)),
    ]
    for result, expected in results:
        np.testing.assert_array_equal(result[..., 3:-5], expected)
        assert (result[..., :3] == 99).all()  # what the fixture fills outputs with
        assert (result[..., -5:] == 99).all()


def test_a_factor_per_channel_may_be_a_share(isa: Isa, run: Run) -> None:
    a, b = random_bytes((2, 3, 4, 30)), random_bytes((2, 1, 1, 50), seed=1)
    result = run(mul(isa, View(a.shape), View((2, 1, 1, 30), ChannelSlice(9, 50)), MUL), a, b)
    np.testing.assert_array_equal(result, exact_product(a, b[..., 9:39], MUL))


def test_equal_shapes_share_their_code(isa: Isa) -> None:
    one = add(isa, View((4, 4)), View((4, 4)), ADD)
    two = add(isa, View((4, 4)), View((4, 4)), replace(ADD, shift=3))
    assert one.func is two.func
    assert one.name == two.name
    assert one.name != add(isa, View((4, 4)), View((4, 1)), ADD).name

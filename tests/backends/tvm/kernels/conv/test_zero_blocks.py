from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("tvm", reason="needs Apache TVM")

from qpc.backends.tvm.kernels.conv.conv_plan import LayerConstants
from qpc.backends.tvm.kernels.conv.linear import LinearDesc, linear
from qpc.backends.tvm.kernels.conv.tiling import ALL_KEPT, Tile, best_tiles
from qpc.backends.tvm.kernels.conv.zero_blocks import TermLists, kept_shares
from qpc.backends.tvm.kernels.epilogue import Lookup
from qpc.backends.tvm.kernels.geometry import Conv2dDesc
from qpc.backends.tvm.kernels.isa.choose import Isa, isa_for
from qpc.targets import Target
from tests.backends.tvm.kernels.conv.test_conv2d import Array, Layer, Run

pytestmark = pytest.mark.tvm

WIDE = isa_for(Target.parse("x86-64-avx512-vnni"))
BASE = Conv2dDesc(
    n=1, h=5, w=11, c=16, o=64, kernel=(3, 3), input_zero_point=7, output_zero_point=100
)


def thinned(layer: Layer, share: float, outputs: int = 16, inputs: int = 4) -> Layer:
    """The layer with about that share of its blocks of weights set to zero."""
    rng = np.random.default_rng(1)
    o, c, *kernel = layer.weight.shape
    keep = rng.random((-(-o // outputs), -(-c // inputs), *kernel)) >= share
    spread = keep.repeat(outputs, 0)[:o].repeat(inputs, 1)[:, :c]
    layer.weight *= spread
    return layer


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"padding": (1, 1, 1, 1)}, id="padded"),
        pytest.param({}, id="in place"),
        pytest.param({"stride": (2, 2), "padding": (1,) * 4, "n": 2}, id="stride, batch"),
        pytest.param({"kernel": (1, 1), "c": 64}, id="1x1"),
        pytest.param({"c": 37, "o": 53}, id="odd channels"),
        pytest.param({"groups": 2, "c": 32, "dilation": (1, 2)}, id="groups, dilated"),
    ],
)
def test_equals_the_exact_result(isa: Isa, run: Run, changes: dict[str, object]) -> None:
    layer = thinned(Layer(replace(BASE, **changes)), 0.8)  # type: ignore[arg-type]  # each has its field's type
    kernel = layer.kernel(isa)
    assert kernel.skipped > 0.3
    np.testing.assert_array_equal(run(kernel, layer.x), layer.expected())


def test_all_weights_may_be_zero(isa: Isa, run: Run) -> None:
    layer = thinned(Layer(BASE), 1.0)
    kernel = layer.kernel(isa)
    assert kernel.skipped == 1 - 1 / ALL_KEPT
    np.testing.assert_array_equal(run(kernel, layer.x), layer.expected())


def test_one_block_of_outputs_may_be_zero(isa: Isa, run: Run) -> None:
    layer = Layer(BASE)
    layer.weight[16:48] = 0
    kernel = layer.kernel(isa)
    assert kernel.skipped == 0.5
    np.testing.assert_array_equal(run(kernel, layer.x), layer.expected())


def test_stages_and_threads_work_as_without_zeros(isa: Isa, run: Run) -> None:
    layer = thinned(Layer(replace(BASE, padding=(1, 1, 1, 1))), 0.75)
    result = layer.run(isa, run, (Lookup(layer.table.tobytes()),), threads=2)
    np.testing.assert_array_equal(result, layer.table[layer.expected()])


def test_linear_layers_skip_too(isa: Isa, run: Run) -> None:
    rng = np.random.default_rng(0)
    layer = thinned(Layer(replace(BASE, kernel=(1, 1), h=1, w=12, c=64)), 0.75)
    weight = layer.weight.reshape(64, 64)
    kernel = linear(
        isa, LinearDesc(12, 64, 64, 7, 100), LayerConstants(weight, layer.bias, layer.multiplier)
    )
    assert kernel.skipped > 0.3
    x = rng.integers(0, 256, (12, 64), np.uint8)
    layer.x = x.reshape(layer.x.shape)
    np.testing.assert_array_equal(run(kernel, x), layer.expected().reshape(12, 64))


def test_nothing_is_skipped_where_nothing_is_zero_or_it_would_not_pay() -> None:
    dense = Layer(BASE).kernel(WIDE)
    assert dense.skipped == 0
    scattered = Layer(BASE)  # most weights are zero, but hardly any block is
    scattered.weight *= np.random.default_rng(0).random(scattered.weight.shape) < 0.1
    assert scattered.kernel(WIDE).skipped == 0
    little = Layer(BASE)
    little.weight[:16, :4, 0, 0] = 0
    assert little.kernel(WIDE).name == dense.name


def test_layers_that_differ_in_their_zeros_only_share_code() -> None:
    first, second = Layer(BASE), Layer(BASE)
    for i in range(4):  # each vector of output channels keeps a quarter, and another than the next
        first.weight[16 * i : 16 * i + 16, np.arange(16) // 4 != i] = 0
        second.weight[16 * i : 16 * i + 16, np.arange(16) // 4 != 3 - i] = 0
    kernels = [layer.kernel(WIDE) for layer in (first, second)]
    assert kernels[0].func is kernels[1].func
    assert [k.skipped for k in kernels] == [0.75, 0.75]
    size = Layer(BASE).kernel(WIDE).params[0].nbytes
    assert [k.params[0].nbytes for k in kernels] == [size / 4, size / 4]


def test_tuning_may_choose_to_skip_or_not() -> None:
    layer = thinned(Layer(BASE), 0.75)
    seen: list[Tile] = []

    def tuner(_: str, tiles: Sequence[Tile]) -> Tile:
        seen.extend(tiles)
        return next(tile for tile in tiles if not tile.skips)

    kernel = layer.kernel(WIDE, tuner=tuner)
    assert {tile.skips for tile in seen} == {True, False}
    assert kernel.skipped == 0


def test_tiles_of_several_vectors_skip_what_is_zero_for_all_of_them() -> None:
    nonzero = np.array([[[True, False, False, False], [False, True, False, False]]])
    assert kept_shares(nonzero) == {1: ALL_KEPT // 4, 2: ALL_KEPT // 2}
    assert kept_shares(np.zeros((1, 2, 4), bool)) == {1: 1, 2: 1}
    assert kept_shares(np.ones((1, 2, 4), bool)) == {}


def test_tiles_are_wider_where_vectors_share_their_zeros() -> None:
    alone = best_tiles(WIDE, 14, 4, 144, {1: 4})[0]
    shared = best_tiles(WIDE, 7, 4, 144, {1: 4, 2: 4, 4: 4})[0]
    assert alone == Tile(14, 1, kept=4)
    assert shared.skips
    assert shared.vectors > 1


@settings(deadline=None)
@given(st.integers(1, 4), st.integers(1, 5), st.integers(0, 3), st.randoms())
def test_lists_hold_all_that_is_left(units: int, terms: int, spare: int, random: Random) -> None:
    rng = np.random.default_rng(random.getrandbits(32))
    weight: Array = rng.integers(-1, 2, (units, terms, 2), np.int8)
    places = np.arange(terms) * 10
    left = int(weight.any(2).sum())
    lists = TermLists.of(weight, places, left + spare)
    again = np.zeros_like(weight)
    for unit in range(units):
        for i in range(lists.starts[unit], lists.starts[unit + 1]):
            again[unit, lists.places[i] // 10] = lists.weight[i]
    np.testing.assert_array_equal(again, weight)
    assert lists.starts[0] == 0
    assert len(lists.weight) == len(lists.places) == left + spare

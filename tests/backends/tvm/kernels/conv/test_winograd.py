from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("tvm", reason="needs Apache TVM")

from qpc.backends.common.channel_slice import ChannelSlice
from qpc.backends.tvm.kernels.conv.conv2d import conv2d
from qpc.backends.tvm.kernels.conv.conv_plan import Convolution
from qpc.backends.tvm.kernels.conv.filtering import FILTERINGS
from qpc.backends.tvm.kernels.conv.methods import plan_for
from qpc.backends.tvm.kernels.conv.tiling import Tile
from qpc.backends.tvm.kernels.conv.winograd_plan import WinogradPlan
from qpc.backends.tvm.kernels.epilogue import Clamp, Lookup, Reals
from qpc.backends.tvm.kernels.geometry import Conv2dDesc
from qpc.backends.tvm.kernels.isa.base import Isa
from qpc.targets import Target
from tests.backends.tvm.kernels.conftest import TARGETS
from tests.backends.tvm.kernels.conv.test_conv2d import ADD, Layer, Run, added

pytestmark = [
    pytest.mark.tvm,
    # all but those of plain arithmetic, which have no products of words
    pytest.mark.parametrize("target", TARGETS[1:], indirect=True),
]

SLOW = pytest.mark.slow

BASE = Conv2dDesc(
    n=1,
    h=9,
    w=11,
    c=16,
    o=16,
    kernel=(3, 3),
    padding=(1, 1, 1, 1),
    input_zero_point=7,
    output_zero_point=100,
)


@pytest.fixture(params=FILTERINGS, ids=lambda out: f"{out}x{out}")
def out(request: pytest.FixtureRequest) -> int:
    size: int = request.param
    return size


@pytest.fixture(autouse=True)
def only_this(out: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """This size of patches is taken wherever it can be, whatever it costs."""
    monkeypatch.setattr(
        WinogradPlan, "time", property(lambda plan: 0.0 if plan.out == out else np.inf)
    )


@pytest.mark.every(6)
@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="odd rows and columns"),
        pytest.param({"h": 8, "w": 8}, id="whole patches", marks=SLOW),
        pytest.param({"h": 4, "w": 4}, id="one patch"),
        pytest.param({"padding": (0, 0, 0, 0)}, id="not padded"),
        pytest.param({"padding": (0, 2, 3, 1)}, id="each side padded differently"),
        pytest.param({"n": 3}, id="three images", marks=SLOW),
        pytest.param({"n": 5, "h": 4, "w": 5}, id="five small images"),
        pytest.param({"c": 1, "o": 1}, id="one channel", marks=SLOW),
        pytest.param({"c": 3, "o": 5}, id="fewer channels than lanes"),
        pytest.param({"c": 29, "o": 53}, id="odd channels"),
        pytest.param({"c": 40, "o": 80}, id="many vectors"),
        pytest.param({"h": 40, "w": 6, "c": 130, "o": 8}, id="several tasks"),
        pytest.param({"source": ChannelSlice(5, 25)}, id="a slice of channels", marks=SLOW),
        pytest.param({"c": 29, "o": 53, "reals": Reals(least=0.0)}, id="float32"),
    ],
)
def test_equals_the_exact_result(isa: Isa, run: Run, changes: dict[str, Any]) -> None:
    layer = Layer(replace(BASE, **changes))
    np.testing.assert_array_equal(layer.run(isa, run), layer.expected())


def test_these_tests_use_minimal_filtering(isa: Isa, out: int) -> None:
    layer = Layer(BASE)
    plan = plan_for(isa, Convolution(layer.desc, layer.constants), 1)
    assert isinstance(plan, WinogradPlan)
    assert plan.out == out


@pytest.mark.parametrize("x", [0, 255])
@pytest.mark.parametrize("weight", [-128, 127])
def test_nothing_overflows_at_extreme_values(isa: Isa, run: Run, x: int, weight: int) -> None:
    layer = Layer(replace(BASE, c=64))
    layer.x[:], layer.weight[:] = x, weight
    layer.multiplier[:] = 1 / 65536
    np.testing.assert_array_equal(layer.run(isa, run), layer.expected())


def test_nothing_overflows_at_alternating_extremes(isa: Isa, run: Run) -> None:
    """Each place of a patch gets its largest value in one of the patches."""
    layer = Layer(replace(BASE, h=32, w=32, c=64))
    rng = np.random.default_rng(0)
    layer.x[:] = 255 * rng.integers(0, 2, layer.x.shape)
    layer.weight[:] = 127 * rng.choice([-1, 1], layer.weight.shape)
    layer.multiplier[:] = 1 / 8192
    np.testing.assert_array_equal(layer.run(isa, run), layer.expected())


@pytest.mark.every(3)
@pytest.mark.parametrize("outputs", [5, pytest.param(16, marks=SLOW), 40])
def test_stages_follow_in_order(isa: Isa, run: Run, outputs: int) -> None:
    layer = Layer(replace(BASE, o=outputs))
    table = layer.table.tobytes()
    result = layer.run(isa, run, (ADD, Lookup(table), Clamp(10, 200)), added=1)
    value = added(layer.expected(), layer.added, ADD)
    np.testing.assert_array_equal(result, np.clip(layer.table[value], 10, 200))


@pytest.mark.every(4)
@pytest.mark.parametrize("threads", [2, pytest.param(3, marks=SLOW)])
@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"h": 26, "o": 32}, id="rows"),
        pytest.param({"h": 4, "w": 4, "o": 96}, id="channels"),
        pytest.param({"n": 4, "h": 4, "w": 4}, id="images"),
    ],
)
def test_threads_share_the_work(isa: Isa, run: Run, threads: int, changes: dict[str, Any]) -> None:
    layer = Layer(replace(BASE, **changes))
    np.testing.assert_array_equal(layer.run(isa, run, threads=threads), layer.expected())


def test_outputs_may_go_to_a_part_of_a_tensor(isa: Isa, run: Run) -> None:
    plain = Layer(replace(BASE, n=2))
    placed = plain.desc.placed(ChannelSlice(8, 40))
    kernel = conv2d(isa, placed, plain.constants, (), 1)
    result = run(kernel, plain.x)
    np.testing.assert_array_equal(result[..., 8:24], plain.expected())
    assert (result[..., :8] == 99).all()  # what the fixture fills outputs with
    assert (result[..., 24:] == 99).all()


def test_tuning_may_choose_any_micro_kernel(isa: Isa, run: Run, out: int) -> None:
    layer = Layer(replace(BASE, o=48))
    seen: list[Tile] = []

    def last(name: str, tiles: Any) -> Tile:
        seen.extend(tile for tile in tiles if tile.kind == f"winograd-{out}")
        return seen[-1]

    result = layer.run(isa, run, tuner=last)
    assert len(seen) > 3
    np.testing.assert_array_equal(result, layer.expected())


@pytest.mark.every(4)
@settings(
    max_examples=4,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    n=st.integers(1, 3),
    size=st.tuples(st.integers(4, 17), st.integers(4, 17)),
    channels=st.tuples(st.integers(1, 80), st.integers(1, 80)),
    threads=st.integers(1, 2),
    seed=st.integers(0, 99),
)
def test_any_size_equals_the_exact_result(
    isa: Isa,
    run: Run,
    n: int,
    size: tuple[int, int],
    channels: tuple[int, int],
    threads: int,
    seed: int,
) -> None:
    (h, w), (c, o) = size, channels
    layer = Layer(replace(BASE, n=n, h=h, w=w, c=c, o=o), seed)
    np.testing.assert_array_equal(layer.run(isa, run, threads=threads), layer.expected())


def test_other_machines_have_other_instructions(out: int, target: Target, isa: Isa) -> None:
    assert isa.words is not None
    assert (isa.words.depth, isa.words.lanes) == (2, target.vector_lanes)

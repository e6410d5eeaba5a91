from __future__ import annotations

from collections.abc import Sequence
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
from qpc.backends.tvm.kernels.conv.methods import plan_for
from qpc.backends.tvm.kernels.conv.sums import Join
from qpc.backends.tvm.kernels.conv.tile_plan import TilePlan
from qpc.backends.tvm.kernels.conv.tiling import Tile
from qpc.backends.tvm.kernels.epilogue import Clamp, Lookup, Reals
from qpc.backends.tvm.kernels.geometry import Conv2dDesc
from qpc.backends.tvm.kernels.isa.base import Isa
from qpc.backends.tvm.kernels.isa.matrices import WIDE
from tests.backends.tvm.kernels.conftest import MATRIX_TARGETS
from tests.backends.tvm.kernels.conv.test_conv2d import ADD, Layer, Run, added
from tests.backends.tvm.kernels.conv.test_transposed import BASE as TRANSPOSED
from tests.backends.tvm.kernels.conv.test_transposed import Layer as TransposedLayer

pytestmark = [
    pytest.mark.tvm,
    pytest.mark.parametrize("target", MATRIX_TARGETS, indirect=True),
    pytest.mark.usefixtures("matrices"),
]

BASE = Conv2dDesc(
    n=1, h=7, w=9, c=8, o=16, kernel=(3, 3), input_zero_point=7, output_zero_point=100
)
PADDED: dict[str, Any] = {"padding": (1, 1, 1, 1)}
SLOW = pytest.mark.slow


@pytest.fixture
def matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Registers of matrices are taken wherever they can be, whatever they cost."""
    monkeypatch.setattr(TilePlan, "time", 0.0)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param(PADDED, id="padded"),
        pytest.param({}, id="in place, with gaps"),
        pytest.param({"n": 3}, id="in place, three images"),
        pytest.param({"padding": (0, 2, 3, 1)}, id="each side padded differently"),
        pytest.param({"padding": (3, 3, 3, 3), "h": 1, "w": 1}, id="more padding than image"),
        pytest.param({"kernel": (1, 1), "h": 5, "w": 9}, id="1x1, 45 pixels"),
        pytest.param({"kernel": (1, 1), "h": 3, "w": 3, "c": 64}, id="1x1, nine pixels"),
        pytest.param({"kernel": (1, 1), "h": 1, "w": 1, "c": 130}, id="1x1, one pixel"),
        pytest.param({"kernel": (1, 1), "c": 1, "o": 1}, id="one channel"),
        pytest.param({"kernel": (1, 1), "c": 3, "o": 5, "n": 2}, id="1x1, three channels"),
        pytest.param(
            {"kernel": (1, 1), "c": 116, "o": 48}, id="1x1, no multiple of a register", marks=SLOW
        ),
        pytest.param({"kernel": (1, 1), "c": 65, "o": 17}, id="1x1, one byte too many"),
        pytest.param(
            {"kernel": (1, 1), "stride": (2, 2), "c": 64}, id="1x1 with stride", marks=SLOW
        ),
        pytest.param({"kernel": (1, 1), "stride": (1, 3), "c": 16}, id="1x1, rows not apart"),
        pytest.param({"kernel": (1, 1), "padding": (1, 0, 0, 2)}, id="1x1 padded"),
        pytest.param({"c": 29, "o": 53, **PADDED}, id="odd channels"),
        pytest.param({"o": 53, "join": Join(90, 1, 0), **PADDED}, id="adds before it rounds"),
        pytest.param({"stride": (2, 2), "n": 2, **PADDED}, id="stride"),
        pytest.param(
            {"stride": (3, 2), "h": 11, "padding": (2, 1, 1, 0)}, id="two strides", marks=SLOW
        ),
        pytest.param({"stride": (4, 4), "h": 9, "w": 13}, id="windows apart", marks=SLOW),
        pytest.param({"kernel": (7, 7), "stride": (2, 2), "padding": (3,) * 4, "c": 3}, id="7x7"),
        pytest.param({"kernel": (5, 2), "o": 32, "padding": (2, 0, 2, 1)}, id="5x2", marks=SLOW),
        pytest.param({"dilation": (2, 3), "padding": (2, 3, 2, 3), "c": 5}, id="dilated"),
        pytest.param({"dilation": (3, 1), "stride": (2, 1), "h": 12}, id="dilation and stride"),
        pytest.param({"groups": 2, **PADDED}, id="two groups in one vector"),
        pytest.param(
            {"groups": 3, "c": 15, "o": 63, "n": 2}, id="groups of many outputs", marks=SLOW
        ),
        pytest.param({"groups": 2, "c": 16, "o": 64, "dilation": (1, 2)}, id="groups, dilated"),
        pytest.param(
            {"n": 5, "h": 4, "w": 4, "o": 64, **PADDED}, id="five small images", marks=SLOW
        ),
        pytest.param({"c": 64, "o": 128, **PADDED}, id="eight vectors"),
        pytest.param({"source": ChannelSlice(5, 20)}, id="a slice of channels"),
        pytest.param(
            {"source": ChannelSlice(0, 9), **PADDED, "n": 2}, id="a slice of channels, padded"
        ),
        pytest.param(
            {"kernel": (1, 1), "c": 12, "source": ChannelSlice(28, 40), "n": 2},
            id="1x1 of a slice, in place",
        ),
        pytest.param(
            {"kernel": (1, 1), "c": 11, "source": ChannelSlice(12, 23)},
            id="1x1 of an odd slice",
            marks=SLOW,
        ),
        pytest.param(
            {"kernel": (1, 1), "c": 3, "source": ChannelSlice(1, 4)},
            id="1x1 of a slice of three channels",
        ),
        pytest.param({"c": 29, "o": 53, "reals": Reals(least=0.0), **PADDED}, id="float32"),
    ],
)
def test_equals_the_exact_result(isa: Isa, run: Run, changes: dict[str, Any]) -> None:
    layer = Layer(replace(BASE, **changes))
    np.testing.assert_array_equal(layer.run(isa, run), layer.expected())


def test_these_tests_use_registers_of_matrices(isa: Isa) -> None:
    layer = Layer(BASE)
    part = Convolution(layer.desc, layer.constants)
    assert isinstance(plan_for(isa, part, 1), TilePlan)


@pytest.mark.parametrize("number", range(len(WIDE.blocks)))
@pytest.mark.parametrize("kernel", [pytest.param((1, 1), marks=SLOW), (3, 3)], ids=str)
def test_every_block_of_registers_is_right(
    isa: Isa, run: Run, number: int, kernel: tuple[int, int]
) -> None:
    assert isa.tiles is not None
    blocks = isa.tiles.sizes.blocks
    if number >= len(blocks):
        pytest.skip("there are fewer blocks")
    layer = Layer(replace(BASE, c=70, o=64, h=9, kernel=kernel))
    tile = Tile(*blocks[number], kind="matrices")

    def tuner(name: str, possible: Sequence[Tile]) -> Tile:
        return tile if tile in possible else pytest.fail(name)

    result = layer.run(isa, run, tuner=tuner)
    np.testing.assert_array_equal(result, layer.expected())


@pytest.mark.parametrize("x", [0, 255])
@pytest.mark.parametrize("weight", [-127, 127])
def test_nothing_saturates_at_extreme_values(isa: Isa, run: Run, x: int, weight: int) -> None:
    layer = Layer(replace(BASE, c=64, **PADDED))
    layer.x[:], layer.weight[:] = x, weight
    layer.multiplier[:] = 1 / 8192
    np.testing.assert_array_equal(layer.run(isa, run), layer.expected())


@pytest.mark.parametrize("outputs", [5, *(pytest.param(n, marks=SLOW) for n in (16, 32, 64)), 40])
def test_stages_follow_in_order(isa: Isa, run: Run, outputs: int) -> None:
    layer = Layer(replace(BASE, o=outputs, **PADDED))
    table = layer.table.tobytes()
    result = layer.run(isa, run, (ADD, Lookup(table), Clamp(10, 200)), added=1)
    value = added(layer.expected(), layer.added, ADD)
    np.testing.assert_array_equal(result, np.clip(layer.table[value], 10, 200))


@pytest.mark.parametrize("threads", [2, pytest.param(3, marks=SLOW)])
@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"h": 13, "o": 32, **PADDED}, id="rows"),
        pytest.param({"h": 2, "w": 2, "o": 96, **PADDED}, id="channels"),
        pytest.param({"n": 4, "h": 3, "w": 3, **PADDED}, id="images"),
        pytest.param({"kernel": (1, 1), "h": 30, "w": 30}, id="pixels"),
    ],
)
def test_threads_share_the_work(isa: Isa, run: Run, threads: int, changes: dict[str, Any]) -> None:
    layer = Layer(replace(BASE, **changes))
    np.testing.assert_array_equal(layer.run(isa, run, threads=threads), layer.expected())


@pytest.mark.parametrize("changes", [{}, {"kernel": (1, 1)}, PADDED], ids=str)
def test_outputs_may_go_to_a_part_of_a_tensor(isa: Isa, run: Run, changes: dict[str, Any]) -> None:
    desc = replace(BASE, n=2, **changes)
    plain = Layer(desc)
    placed = Layer(desc.placed(ChannelSlice(8, 40)))
    kernel = conv2d(isa, placed.desc, plain.constants, (), 1)
    result = run(kernel, plain.x)
    np.testing.assert_array_equal(result[..., 8:24], plain.expected())
    assert (result[..., :8] == 99).all()  # what the fixture fills outputs with
    assert (result[..., 24:] == 99).all()


@pytest.mark.parametrize(
    "changes",
    [
        {"kernel": (2, 2)},
        {"padding": (1, 2)},
        pytest.param({"kernel": (3, 3), "n": 2}, marks=SLOW),
        pytest.param({"kernel": (1, 1), "stride": (3, 2)}, marks=SLOW),
        pytest.param({"groups": 2, "kernel": (2, 2)}, marks=SLOW),
        pytest.param({"c": 37, "o": 53, "padding": (1, 1)}, marks=SLOW),
    ],
    ids=str,
)
def test_transposed_convolutions_are_made_of_the_same(
    isa: Isa, run: Run, changes: dict[str, Any]
) -> None:
    layer = TransposedLayer(replace(TRANSPOSED, **changes))
    np.testing.assert_array_equal(layer.run(isa, run, threads=2), layer.expected())


@st.composite
def descs(draw: st.DrawFn) -> Conv2dDesc:
    """Convolutions that fit their input."""
    kernel = (draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    dilation = (draw(st.integers(1, 2)), draw(st.integers(1, 2)))
    padding = draw(st.tuples(*[st.integers(0, 3)] * 4))
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    groups = draw(st.sampled_from([1, 1, 1, 2, 3]))
    return replace(
        BASE,
        n=draw(st.integers(1, 3)),
        h=max(1, reach[0] - padding[0] - padding[2]) + draw(st.integers(0, 9)),
        w=max(1, reach[1] - padding[1] - padding[3]) + draw(st.integers(0, 9)),
        c=groups * draw(st.integers(1, 80)),
        o=groups * draw(st.integers(1, 80)),
        kernel=kernel,
        stride=(draw(st.integers(1, 3)), draw(st.integers(1, 3))),
        padding=padding,
        dilation=dilation,
        groups=groups,
    )


@pytest.mark.thorough
@settings(
    max_examples=5,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(desc=descs(), threads=st.integers(1, 2), seed=st.integers(0, 99))
def test_any_convolution_equals_the_exact_result(
    isa: Isa, run: Run, desc: Conv2dDesc, threads: int, seed: int
) -> None:
    layer = Layer(desc, seed)
    np.testing.assert_array_equal(layer.run(isa, run, threads=threads), layer.expected())

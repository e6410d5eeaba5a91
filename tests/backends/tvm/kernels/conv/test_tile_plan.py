from __future__ import annotations

from dataclasses import replace
from itertools import product
from math import ceil
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("tvm", reason="needs Apache TVM")

from qpc.backends.tvm.kernels.conv.tile_plan import NOWHERE, TilePlan
from qpc.backends.tvm.kernels.geometry import ConvShape, tile_start
from qpc.backends.tvm.kernels.isa.choose import isa_for
from qpc.targets import Target

pytestmark = pytest.mark.tvm

ISA = isa_for(Target.parse("x86-64-amx"))
PADDED: dict[str, Any] = {"kernel": (3, 3), "padding": (1, 1, 1, 1)}


def plan(*sizes: int, threads: int = 1, **changes: Any) -> TilePlan:
    """The plan of a convolution with sizes n, h, w, c, o."""
    n, h, w, c, o = sizes
    shape = ConvShape(n, h, w, c, o, **{"kernel": (1, 1)} | changes)
    return TilePlan(ISA, shape, threads)


@pytest.mark.parametrize(
    ("inputs", "run", "starts"),
    [
        (64, 64, [0]),
        (128, 64, [0, 64]),
        (96, 48, [0, 48]),
        (116, 60, [0, 56]),  # the last ends where the input ends, and sees four bytes again
        (3, 4, [0]),  # one byte of the next pixel, or of nothing
        (65, 36, [0, 29]),
    ],
)
def test_runs_are_cut_evenly_and_not_exceeded(inputs: int, run: int, starts: list[int]) -> None:
    p = plan(1, 8, 8, inputs, 16)
    assert (p.run, p.run_starts.tolist()) == (run, starts)
    assert p.in_place == (inputs >= run)


def test_bytes_that_are_seen_twice_have_weights_once() -> None:
    p = plan(1, 4, 4, 116, 16)
    packed, *_ = p.pack_weight(np.ones((16, 116, 1, 1), np.int8))
    assert packed.sum() == 16 * 116


def test_rows_follow_each_other_with_gaps() -> None:
    p = plan(1, 5, 9, 16, 16, kernel=(3, 3))
    assert (p.columns, p.gap, p.pitch, p.rows) == (7, 2, 9, 3)
    assert p.in_place
    places = p.pixel_places.tolist()
    assert places[:10] == [0, 16, 32, 48, 64, 80, 96, NOWHERE, NOWHERE, 112]


def test_a_matrix_of_pixels_has_no_gaps() -> None:
    p = plan(2, 5, 9, 64, 32)
    assert (p.images, p.rows, p.columns, p.gap) == (1, 90, 1, 0)
    assert p.follows


def test_padded_input_rows_are_sorted_by_their_remainder() -> None:
    p = plan(1, 224, 224, 3, 64, kernel=(7, 7), stride=(2, 2), padding=(3,) * 4)
    assert p.remainders == [0, 1]
    assert plan(1, 9, 9, 8, 8, kernel=(3, 3), stride=(3, 3), dilation=(3, 1)).remainders == [0]


def test_weights_that_come_from_far_away_are_loaded_once() -> None:
    few_pixels = plan(1, 7, 7, 512, 512, **PADDED)
    assert few_pixels.tiles == 1
    assert few_pixels.fetched > 0
    many_pixels = plan(1, 56, 56, 64, 64, **PADDED)
    assert many_pixels.fetched == 0


def test_small_images_are_taken_together() -> None:
    p = plan(16, 7, 7, 512, 512, **PADDED)
    assert p.cut.images > 1
    assert plan(16, 7, 7, 512, 512, threads=2, **PADDED).cut.images <= 8


def test_a_task_has_as_many_images_as_fit_with_all_they_are_sorted_into() -> None:
    strided = plan(64, 14, 14, 64, 64, stride=(2, 2), **PADDED)
    assert len(strided.remainders) == 2  # of columns, each in a plane of its own
    each = 2 * strided.plane_bytes(strided.rows)
    assert strided.cut.images == strided.costs.task_bytes // each == 32


@st.composite
def plans(draw: st.DrawFn) -> TilePlan:
    kernel = (draw(st.integers(1, 5)), draw(st.integers(1, 5)))
    groups = draw(st.sampled_from([1, 2]))
    return plan(
        draw(st.integers(1, 4)),
        kernel[0] * 2 + draw(st.integers(0, 20)),
        kernel[1] * 2 + draw(st.integers(0, 20)),
        groups * draw(st.integers(1, 150)),
        groups * draw(st.integers(1, 100)),
        threads=draw(st.integers(1, 3)),
        kernel=kernel,
        stride=(draw(st.integers(1, 3)), draw(st.integers(1, 3))),
        padding=tuple(draw(st.integers(0, 2)) for _ in range(4)),
        dilation=(draw(st.integers(1, 2)), draw(st.integers(1, 2))),
        groups=groups,
    )


def first_positions(p: TilePlan) -> list[int]:
    positions = p.positions(p.cut.rows)
    if p.tiles == 1:
        return [0]
    return [int(tile_start(tile, p.tile_positions, positions)) for tile in range(p.tiles)]


@settings(max_examples=100, deadline=None)
@given(p=plans())
def test_tiles_cover_the_pixels_of_a_task(p: TilePlan) -> None:
    covered = {f + i for f in first_positions(p) for i in range(p.tile_positions)}
    columns = product(range(p.cut.rows), range(p.columns))
    assert {row * p.pitch + column for row, column in columns} <= covered
    places = p.pixel_places
    kept = places[places != NOWHERE]
    assert len(kept) == len(set(kept)) == p.cut.rows * p.columns


@settings(max_examples=100, deadline=None)
@given(p=plans())
def test_nothing_is_read_beyond_the_input(p: TilePlan) -> None:
    last_pixel = first_positions(p)[-1] + p.tile_positions - 1
    group = (p.groups - 1) * p.group_inputs
    end = last_pixel * p.x_step + int(p._term_places.max()) + group + p.run
    if not p.in_place:
        assert end <= p.image_scratch
        return
    first = p.input_offset(p.images - 1, p.rows - p.cut.rows)
    assert isinstance(first, int)
    shape = p.shape
    assert first + end <= shape.n * shape.h * shape.w * shape.c


@settings(max_examples=50, deadline=None)
@given(p=plans())
def test_tasks_cover_the_output(p: TilePlan) -> None:
    blocks = ceil(p.rows / p.cut.rows)
    rows = {
        int(tile_start(block, p.cut.rows, p.rows)) + row
        for block in range(blocks)
        for row in range(p.cut.rows)
    }
    assert rows == set(range(p.rows))
    assert p.units % p.cut.parts == 0


def test_tuning_can_ask_for_every_block_that_fits() -> None:
    p = plan(1, 14, 14, 64, 64)
    variants = p.variants(np.zeros((64, 64, 1, 1), np.int8))
    assert {(v.label.pixels, v.label.vectors) for v in variants} >= {(2, 2), (4, 1), (1, 4)}
    assert all(v.label.kind == "matrices" for v in variants)
    odd = replace(p, shape=replace(p.shape, o=48))  # three vectors
    assert {v.label.vectors for v in odd.variants(np.zeros((48, 64, 1, 1), np.int8))} == {1}

from __future__ import annotations

import pytest

pytest.importorskip("tvm", reason="needs Apache TVM")

from qpc.backends.tvm.kernels.conv.tiling import (
    Blocks,
    choose_blocks,
    choose_tile,
    tiles_that_fit,
)
from qpc.backends.tvm.kernels.isa.choose import Isa, isa_for
from qpc.targets import Target
from qpc.targets.costs import Costs

pytestmark = pytest.mark.tvm

WIDE = isa_for(Target.parse("x86-64-avx512-vnni"))
NARROW = isa_for(Target.parse("x86-64"))
COSTS = Costs()


@pytest.fixture(autouse=True, scope="module")
def sharing_is_free() -> None:
    """Not in these tests, which are about what it costs."""


@pytest.mark.parametrize("isa", [WIDE, NARROW], ids=["wide", "narrow"])
@pytest.mark.parametrize("columns", [1, 7, 13, 56, 3136])
@pytest.mark.parametrize("vectors", [1, 2, 5, 63])
def test_a_tile_fits_registers_and_dimensions(isa: Isa, columns: int, vectors: int) -> None:
    tile = choose_tile(isa, columns, vectors, steps=100)
    assert (tile.pixels + 1) * tile.vectors + 1 <= isa.registers
    assert vectors % tile.vectors == 0
    assert tile.pixels <= columns


def test_weights_of_four_bits_leave_room_for_what_unpacks_them() -> None:
    isa = isa_for(Target.parse("x86-64-avx2"))
    assert isa.registers == 15
    tiles = {(t.pixels, t.vectors) for t in tiles_that_fit(isa, 8, 4, nibbles=True)}
    assert tiles == {(1, 1), (2, 1), (1, 2), (2, 2), (1, 4)}


@pytest.mark.parametrize("columns", [7, 14, 28, 56])
def test_tiles_divide_the_usual_widths(columns: int) -> None:
    assert columns % choose_tile(WIDE, columns, vectors=4, steps=144).pixels == 0


def blocks(
    threads: int,
    rows: int = 56,
    images: int = 1,
    bytes_per_row: int = 3000,
    row_cost: float = 50_000,
) -> Blocks:
    return choose_blocks(
        images=images,
        rows=rows,
        channel_blocks=4,
        row_cost=row_cost,
        bytes_per_row=bytes_per_row,
        extra_bytes=6000,
        copies=True,
        threads=threads,
        costs=COSTS,
    )


def test_one_thread_copies_as_much_as_fits_a_cache() -> None:
    assert blocks(threads=1).rows == 56
    large = blocks(threads=1, bytes_per_row=10_000)
    assert 6000 + 10_000 * large.rows <= COSTS.scratch_bytes
    assert large.parts == 1


@pytest.mark.parametrize("threads", [2, 4])
@pytest.mark.parametrize("rows", [1, 7, 56])
def test_tasks_are_balanced(threads: int, rows: int) -> None:
    chosen = blocks(threads, rows=rows)
    tasks = -(-rows // chosen.rows) * chosen.parts
    assert tasks % threads == 0


def test_a_layer_that_is_too_small_to_be_shared_is_one_task() -> None:
    work = 2 * COSTS.sharing.cost(tasks=2, threads=2)  # half of it is what two threads save
    assert blocks(threads=2, rows=1, row_cost=0.9 * work) == Blocks(rows=1, parts=1)
    assert blocks(threads=2, rows=1, row_cost=1.1 * work) == Blocks(rows=1, parts=2)


def test_a_single_task_or_thread_has_nothing_to_share() -> None:
    assert COSTS.sharing.cost(tasks=1, threads=2) == COSTS.sharing.cost(tasks=9, threads=1) == 0


def test_images_are_tasks_already() -> None:
    assert blocks(threads=2, images=2, rows=7) == Blocks(rows=7, parts=1)

from __future__ import annotations

from dataclasses import replace

import pytest

from qpc.backends.common.plan import Place, Step
from qpc.backends.deploy.report import check_board, footprint, report_text
from qpc.errors import BackendError
from qpc.targets.data import Board
from tests.backends.deploy.models import deployable


def test_it_adds_up_flash_memory_and_work() -> None:
    needs = footprint(deployable(), code=1000, constants=8)
    assert (needs.flash, needs.ram, needs.macs) == (1008, 256 + 24 + 4, 100)
    assert [(layer.layer, layer.constants) for layer in needs.layers] == [
        ("make: conv1", 8),
        ("end: pool", 0),
    ]


def test_a_layer_uses_what_it_reads_and_writes_and_what_later_ones_read() -> None:
    model = deployable()
    assert [layer.arena for layer in footprint(model, 0, 0).layers] == [100, 164]

    def step(reads: list[tuple[int, int]], writes: list[tuple[int, int]]) -> Step:
        places = [[Place("arena", *span) for span in spans] for spans in (reads, writes)]
        return Step("k", (), reads=tuple(places[0]), writes=tuple(places[1]))

    kept = step([], [(0, 64)])  # which the last one reads
    between = step([], [(64, 32)])
    part = step([(64, 16)], [(128, 8)])  # the rest of it is not wanted any more
    last = step([(0, 64), (128, 8)], [])
    layers = footprint(replace(model, steps=(kept, between, part, last)), 0, 0).layers
    assert [layer.arena for layer in layers] == [64, 96, 88, 72]


def test_the_text_says_how_much_of_the_board_is_used() -> None:
    target = replace(deployable().target, board=Board(flash=2016, ram=1000))
    model = replace(deployable(), target=target, notes=("in float: softmax",))
    text = report_text(model, footprint(model, 1000, 8))
    assert "1,008 bytes  (50.0% of 2,016)" in text
    assert "284 bytes  (28.4% of 1,000)" in text
    assert "output 0  y: int32[1], 4 bytes, exact" in text
    assert "Notes:\n  in float: softmax" in text


@pytest.mark.parametrize(
    ("board", "text"),
    [
        (Board(ram=283), "needs 284 bytes of memory .*most at 'end: pool'.*'aarch64' has 283"),
        (Board(flash=1007), "needs 1,008 bytes of flash .8 of them .*'make: conv1'.*has 1,007"),
    ],
)
def test_a_board_that_is_too_small_is_told_with_the_layer(board: Board, text: str) -> None:
    model = deployable()
    needs = footprint(model, 1000, 8)
    check_board(replace(model, target=replace(model.target, board=Board(1008, 284))), needs)
    with pytest.raises(BackendError, match=text):
        check_board(replace(model, target=replace(model.target, board=board)), needs)

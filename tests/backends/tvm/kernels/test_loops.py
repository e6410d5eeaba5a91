from __future__ import annotations

import pytest

pytest.importorskip("tvm", reason="needs Apache TVM")

from qpc.backends.tvm.kernels.emit import Flat, Index, prim_func
from qpc.backends.tvm.kernels.kernel import TensorType
from qpc.backends.tvm.kernels.loops import (
    Box,
    broadcast_strides,
    contiguous_strides,
    for_each_vector,
)

pytestmark = pytest.mark.tvm


def test_a_contiguous_tensor_is_one_loop() -> None:
    strides = contiguous_strides((2, 3, 4))
    assert strides == (12, 4, 1)
    assert Box.of((2, 3, 4), strides, strides) == Box((24,), ((1,), (1,)))


def test_only_dimensions_that_every_operand_walks_alike_are_merged() -> None:
    shape = (2, 3, 4)
    factor = broadcast_strides((1, 1, 4), (4, 4, 1), shape)
    assert factor == (0, 0, 1)
    assert Box.of(shape, contiguous_strides(shape), factor) == Box((6, 4), ((4, 1), (0, 1)))


def test_missing_dimensions_are_broadcast() -> None:
    assert broadcast_strides((3, 1), (1, 1), (5, 3, 7)) == (0, 1, 0)


def test_loops_of_one_round_disappear() -> None:
    assert Box.of((1, 5, 1), (5, 1, 1)) == Box((5,), ((1,),))
    assert Box.of((1,), (1,)) == Box((1,), ((1,),))
    assert Box.of((), ()) == Box((1,), ((1,),))


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("extents", "widths"),
    [
        ((120,), [64, 32, 16, 8]),
        ((3, 47), [32, 8, 4, 2, 1]),
        ((64,), [64]),
        (((1 << 15) + 24,), [64, 16, 8]),
    ],
)
def test_what_is_left_of_a_row_is_done_in_powers_of_two(
    extents: tuple[int, ...], widths: list[int], threads: int
) -> None:
    box = Box(extents, (contiguous_strides(extents),))
    seen: list[int] = []

    def body(x: Flat) -> None:
        def emit(offsets: list[Index], lanes: int) -> None:
            x.store(offsets[0], x.load(offsets[0], lanes), lanes)
            seen.append(lanes)

        for_each_vector(box, 64, threads, emit)

    prim_func("rows", (TensorType(extents, "uint8"),), body)
    assert seen == widths

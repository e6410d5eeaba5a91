"""Layers write straight to their place in a concat, and read slices where they are."""

from __future__ import annotations

from collections.abc import Callable

import pytest

pytest.importorskip("tvm_ffi", reason="Apache TVM is not installed")
import torch
from torch.fx import Node

from qpc.calls import aten
from tests.backends.tvm.checking import assert_same_bits, kernels
from tests.generators import IntegerGraph

pytestmark = pytest.mark.tvm

# Two threads split what one does in the same order, and the tests that name no threads use one.
THREADS = [pytest.param(1, marks=pytest.mark.slow), 2]


class Fire(IntegerGraph):
    """A 1x1 and a 3x3 convolution of the same image."""

    def branches(self, q: Node, first: int, second: int) -> list[Node]:
        return [self.conv2d(q, first, (1, 1)), self.conv2d(q, second, (3, 3), padding=(1, 1))]


@pytest.mark.parametrize(("first", "second"), [(16, 32), (5, 3), (20, 33)])
@pytest.mark.parametrize("threads", THREADS)
def test_two_layers_fill_a_concat_without_copies(first: int, second: int, threads: int) -> None:
    g = Fire()
    q = g.quantize(g.input(8, 9, 7))
    joined = g.call(aten.cat.default, g.branches(q, first, second), 1)
    gm = g.module(g.mean(joined, (2, 3)))
    compiled = assert_same_bits(gm, batch_sizes=(1, 3), threads=threads)
    assert kernels(compiled) == ["quantize", "conv2d", "conv2d", "mean"]


def test_other_members_are_copied_to_their_places() -> None:
    g = Fire()
    q = g.quantize(g.input(8, 7, 7))
    a, b = g.branches(q, 5, 6)
    joined = g.call(aten.cat.default, [q, a, g.permute(q, 0, 1, 3, 2), b], 1)
    compiled = assert_same_bits(g.module(g.mean(joined, (2, 3))), batch_sizes=(2,))
    assert kernels(compiled) == ["quantize", "conv2d", "conv2d", "transpose", "place", "mean"]


MEMBERS: dict[str, Callable[[IntegerGraph, Node], Node]] = {
    "max_pool2d": lambda g, q: g.max_pool2d(q, (3, 3), (1, 1), (1, 1)),
    "avg_pool2d": lambda g, q: g.avg_pool2d(q, (3, 3), (1, 1), (1, 1)),
    "resize2d": lambda g, q: g.resize2d(q, 9, 7, linear=True),
    "depthwise_conv2d": lambda g, q: g.conv2d(q, 8, (3, 3), padding=(1, 1), groups=8),
    "grouped convolution": lambda g, q: g.conv2d(q, 20, (3, 3), padding=(1, 1), groups=2),
    "conv_transpose2d": lambda g, q: g.conv_transpose2d(q, 12, (3, 3), padding=(1, 1)),
    "add": lambda g, q: g.add(q, q),
    "mul": lambda g, q: g.mul(q, g.lookup(g.mean(q, (2, 3), True))),
    "lookup": lambda g, q: g.lookup(q),
    "clamp": lambda g, q: g.clamp(q),
}


@pytest.mark.every(9)
@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("member", MEMBERS)
def test_an_operator_writes_to_its_place(member: str, threads: int) -> None:
    g = Fire()
    q = g.quantize(g.input(8, 9, 7))
    first, second = g.branches(q, 20, 5)
    joined = g.call(aten.cat.default, [first, MEMBERS[member](g, q), second], 1)
    gm = g.module(g.mean(joined, (2, 3)))
    compiled = assert_same_bits(gm, batch_sizes=(1, 3), threads=threads)
    assert not {"place", "concatenate"} & set(kernels(compiled))


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_linear_layers_of_images_are_joined_along_any_axis(dim: int) -> None:
    """Their channels are the last axis, those of images the second."""
    g = IntegerGraph()
    q = g.quantize(g.input(5, 4, 6))
    joined = g.cat(g.linear(q, 9), g.linear(q, 9), g.lookup(g.linear(q, 9)), dim=dim)
    assert_same_bits(g.module(joined, g.mean(joined, (2, 3))), batch_sizes=(1, 3))


@pytest.mark.thorough
def test_upsampling_joins_a_finer_map_without_copies() -> None:
    """As in U-Net: a transposed convolution, then a concat with what was there before."""
    g = IntegerGraph()
    fine = g.conv2d(g.quantize(g.input(8, 10, 12)), 12, (3, 3), padding=(1, 1))
    coarse = g.conv2d(g.max_pool2d(fine, (2, 2), (2, 2)), 24, (1, 1))
    up = g.conv_transpose2d(coarse, 12, (2, 2), stride=(2, 2))
    joined = g.call(aten.cat.default, [up, g.conv2d(fine, 5, (1, 1))], 1)
    compiled = assert_same_bits(g.module(g.mean(joined, (2, 3))))
    assert "place" not in kernels(compiled)


def test_other_readers_read_a_member_in_its_place() -> None:
    g = Fire()
    q = g.quantize(g.input(8, 6, 6))
    a, b = g.branches(q, 8, 8)
    joined = g.call(aten.cat.default, [a, b, g.conv2d(a, 4, (1, 1))], 1)
    compiled = assert_same_bits(g.module(g.mean(joined, (2, 3))), batch_sizes=(1, 3))
    assert kernels(compiled) == ["quantize", *["conv2d"] * 3, "mean"]


def test_a_member_has_a_tensor_of_its_own_if_other_readers_need_one() -> None:
    g = Fire()
    a, b = g.branches(g.quantize(g.input(8, 6, 6)), 8, 8)
    joined = g.call(aten.cat.default, [a, b], 1)
    compiled = assert_same_bits(g.module(g.mean(joined, (2, 3)), g.mean(a, (2, 3))))
    assert kernels(compiled) == ["quantize", "conv2d", "conv2d", "place", "mean", "mean"]


def test_a_member_of_two_concats_is_copied_for_other_readers_instead() -> None:
    g = Fire()
    a, b = g.branches(g.quantize(g.input(8, 6, 6)), 8, 8)
    first = g.call(aten.cat.default, [a, b], 1)
    second = g.call(aten.cat.default, [a, b, g.conv2d(first, 8, (1, 1))], 1)
    compiled = assert_same_bits(g.module(g.mean(second, (2, 3)), g.mean(a, (2, 3))))
    assert kernels(compiled) == ["quantize", *["conv2d"] * 3, "mean", "slice", "mean"]


def test_a_member_that_is_there_twice_is_copied() -> None:
    g = Fire()
    a, b = g.branches(g.quantize(g.input(8, 6, 6)), 8, 8)
    joined = g.call(aten.cat.default, [a, b, a], 1)
    compiled = assert_same_bits(g.module(g.mean(joined, (2, 3))))
    assert kernels(compiled) == ["quantize", "conv2d", "conv2d", "place", "mean"]


def test_a_layer_that_adds_a_tensor_of_its_own_is_copied() -> None:
    g = Fire()
    q = g.quantize(g.input(8, 6, 6))
    a, b = g.branches(q, 8, 8)
    joined = g.call(aten.cat.default, [g.add(a, q), b], 1)
    compiled = assert_same_bits(g.module(g.mean(joined, (2, 3))))
    assert kernels(compiled) == ["quantize", "conv2d", "conv2d", "place", "mean"]


@pytest.mark.thorough
@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("depthwise", [False, True])
def test_layers_add_what_lies_in_the_same_tensor(threads: int, depthwise: bool) -> None:
    """As in YOLOv8: bottlenecks with shortcuts, all of which are joined."""
    g = IntegerGraph()
    q = g.conv2d(g.quantize(g.input(8, 9, 7)), 140, (1, 1))
    values = halves(g, q, 70)
    for i in range(3):
        inner = g.conv2d(values[-1], 16, (1, 1))
        if depthwise:
            wide = g.conv2d(inner, 70, (1, 1))
            inner = g.conv2d(wide, 70, (3, 3), padding=(1, 1), groups=70)
        else:
            inner = g.conv2d(inner, 70, (3, 3), padding=(1, 1))
        values.append(g.add(*((values[-1], inner) if i else (inner, values[-1]))))
    joined = g.cat(*values[:1:-1], *values[:2])
    gm = g.module(g.conv2d(joined, 16, (1, 1)))
    compiled = assert_same_bits(gm, batch_sizes=(1, 3), threads=threads)
    assert not {"place", "slice", "concatenate", "add"} & set(kernels(compiled)[:-1])


def test_a_transposed_convolution_adds_what_lies_in_the_same_tensor() -> None:
    g = IntegerGraph()
    first = g.conv2d(g.quantize(g.input(8, 8, 6)), 12, (1, 1))
    up = g.conv_transpose2d(g.max_pool2d(first, (2, 2), (2, 2)), 12, (2, 2), stride=(2, 2))
    joined = g.cat(first, g.add(up, first))
    compiled = assert_same_bits(g.module(g.mean(joined, (2, 3))), batch_sizes=(1, 2))
    assert not {"place", "slice", "add"} & set(kernels(compiled))


def test_a_concat_of_concats_is_one() -> None:
    g = Fire()
    a, b = g.branches(g.quantize(g.input(8, 6, 6)), 8, 8)
    inner = g.call(aten.cat.default, [a, b], 1)
    outer = g.call(aten.cat.default, [g.conv2d(inner, 16, (1, 1)), inner], 1)
    compiled = assert_same_bits(g.module(g.mean(outer, (2, 3))), batch_sizes=(1, 2))
    assert kernels(compiled) == ["quantize", *["conv2d"] * 3, "mean"]


def test_a_concat_inside_another_copies_what_cannot_be_computed_there() -> None:
    g = Fire()
    q = g.quantize(g.input(8, 6, 6))
    inner = g.call(aten.cat.default, [q, q], 1)
    outer = g.call(aten.cat.default, [g.conv2d(q, 3, (1, 1)), inner, inner], 1)
    compiled = assert_same_bits(g.module(g.mean(outer, (2, 3))), batch_sizes=(1, 2))
    assert kernels(compiled) == ["quantize", "place", "conv2d", "place", "mean"]


def test_a_member_that_is_a_constant_is_copied() -> None:
    g = IntegerGraph()
    constant = g.clamp(g.constant(torch.arange(288, dtype=torch.uint8).reshape(1, 8, 6, 6)))
    joined = g.cat(g.conv2d(g.quantize(g.input(8, 6, 6)), 8, (1, 1)), constant)
    compiled = assert_same_bits(g.module(joined))
    assert "place" in kernels(compiled)


def test_a_concat_along_rows_is_copied() -> None:
    g = Fire()
    q = g.quantize(g.input(8, 6, 6))
    tall = g.call(aten.cat.default, [g.conv2d(q, 4), g.conv2d(q, 4)], 2)
    compiled = assert_same_bits(g.module(g.mean(tall, (2, 3))), batch_sizes=(1, 2))
    assert "concatenate" in kernels(compiled)


@pytest.mark.parametrize("threads", THREADS)
def test_a_dense_block_copies_nothing(threads: int) -> None:
    """As in DenseNet: each layer reads all that were before it, through a norm of its own."""
    g = IntegerGraph()
    values = [g.max_pool2d(g.quantize(g.input(12, 9, 8)), (2, 2), (1, 1))]
    for _ in range(4):
        joined = g.cat(*values) if len(values) > 1 else values[0]
        channels = g.shape(joined)[1]
        norm = g.conv2d(joined, channels, (1, 1), groups=channels)
        values.append(g.conv2d(norm, 5, (3, 3), padding=(1, 1)))
    gm = g.module(g.mean(g.cat(*values), (2, 3)))
    compiled = assert_same_bits(gm, batch_sizes=(1, 3), threads=threads)
    assert set(kernels(compiled)) == {
        *("quantize", "max_pool2d", "conv2d", "depthwise_conv2d", "mean"),
    }


@pytest.mark.parametrize("threads", THREADS)
def test_a_block_whose_halves_join_its_layers_copies_nothing(threads: int) -> None:
    """As in YOLOv8: the halves of a layer, and each layer that follows the second one."""
    g = IntegerGraph()
    q = g.conv2d(g.quantize(g.input(8, 9, 7)), 24, (1, 1))
    values = halves(g, q, 12)
    for _ in range(2):
        values.append(g.conv2d(values[-1], 12, (3, 3), padding=(1, 1)))
    gm = g.module(g.conv2d(g.cat(*values), 16, (1, 1)))
    compiled = assert_same_bits(gm, batch_sizes=(1, 3), threads=threads)
    assert kernels(compiled)[:5] == ["quantize", *["conv2d"] * 4]


def test_a_ghost_module_copies_nothing() -> None:
    """As in GhostNet: a layer, and a depthwise one that reads it, of which not all is used."""
    g = IntegerGraph()
    primary = g.conv2d(g.quantize(g.input(8, 9, 7)), 12, (1, 1))
    cheap = g.conv2d(primary, 12, (3, 3), padding=(1, 1), groups=12)
    used = g.slice(g.cat(primary, cheap), 1, 0, 23)
    compiled = assert_same_bits(g.module(g.conv2d(used, 8, (1, 1))), batch_sizes=(1, 3))
    assert kernels(compiled)[:4] == ["quantize", "conv2d", "depthwise_conv2d", "conv2d"]


def test_only_the_channels_that_a_kernel_uses_count_as_its_memory() -> None:
    g = IntegerGraph()
    q = g.conv2d(g.quantize(g.input(8, 9, 7)), 24, (1, 1))
    joined = g.cat(g.max_pool2d(g.slice(q, 1, 2, 12), (1, 1), (1, 1)), g.slice(q, 1, 0, 5))
    compiled = assert_same_bits(g.module(g.mean(joined, (1, 2, 3))))
    steps = next(iter(compiled._parts.code.entries.values())).steps
    used = {operation: step.bytes for operation, step in zip(kernels(compiled), steps, strict=True)}
    assert used["max_pool2d"] == 2 * 9 * 7 * 10
    assert used["place"] == 2 * 9 * 7 * 5


def test_a_joined_tensor_may_be_an_output_beside_its_members() -> None:
    g = Fire()
    a, b = g.branches(g.quantize(g.input(8, 6, 6)), 8, 8)
    first = g.cat(a, b)
    second = g.cat(a, b, g.conv2d(first, 8, (1, 1)))
    assert_same_bits(g.module(second, first, a, g.cat(b, a)), batch_sizes=(1, 2))


def halves(g: IntegerGraph, q: Node, at: int) -> list[Node]:
    return [g.call(aten.slice.Tensor, q, 1, *ends) for ends in ((0, at), (at, 2**63 - 1))]


@pytest.mark.every(2)
@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3)])
def test_a_layer_reads_a_slice_of_channels_where_it_is(
    threads: int, kernel: tuple[int, int]
) -> None:
    g = IntegerGraph()
    q = g.conv2d(g.quantize(g.input(8, 9, 7)), 24, (1, 1))
    first, second = (g.conv2d(half, 8, kernel, padding=(1, 1)) for half in halves(g, q, 10))
    gm = g.module(g.add(first, second))
    compiled = assert_same_bits(gm, batch_sizes=(1, 3), threads=threads)
    assert kernels(compiled).count("conv2d") == 3
    assert "slice" not in kernels(compiled)


def test_a_shuffle_unit_copies_its_first_half_once() -> None:
    """As in ShuffleNetV2: one half goes through a layer, the other to the concat."""
    g = IntegerGraph()
    q = g.conv2d(g.quantize(g.input(8, 9, 7)), 24, (1, 1))
    first, second = halves(g, q, 12)
    joined = g.call(aten.cat.default, [first, g.conv2d(second, 12, (1, 1))], 1)
    compiled = assert_same_bits(g.module(g.mean(joined, (2, 3))), batch_sizes=(2,))
    assert kernels(compiled) == ["quantize", "conv2d", "conv2d", "place", "mean"]


@pytest.mark.every(2)
@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize("reader", MEMBERS)
def test_an_operator_reads_a_slice_where_it_is(reader: str, threads: int) -> None:
    g = IntegerGraph()
    q = g.conv2d(g.quantize(g.input(8, 9, 7)), 24, (1, 1))
    read = MEMBERS[reader](g, g.slice(g.slice(q, 1, 3, 20), 1, 4, 12))
    compiled = assert_same_bits(g.module(read), batch_sizes=(1, 3), threads=threads)
    assert kernels(compiled).count("slice") == (reader == "mul")  # for the mean


def test_other_readers_get_a_copy_which_they_share() -> None:
    g = IntegerGraph()
    q = g.conv2d(g.quantize(g.input(8, 9, 7)), 24, (1, 1))
    half = halves(g, q, 12)[1]
    means = g.mean(half, (2,)), g.mean(half, (3,))
    compiled = assert_same_bits(g.module(*means), batch_sizes=(2,))
    assert kernels(compiled).count("slice") == 1


def test_rows_of_a_slice_of_channels_are_copied_once() -> None:
    g = IntegerGraph()
    q = g.conv2d(g.quantize(g.input(8, 9, 7)), 24, (1, 1))
    part = g.slice(g.slice(q, 1, 3, 20), 2, 1, 8, 2)
    compiled = assert_same_bits(g.module(g.lookup(part)), batch_sizes=(2,))
    assert kernels(compiled)[:4] == ["quantize", "conv2d", "slice", "lookup"]


def test_a_slice_may_be_an_output() -> None:
    g = IntegerGraph()
    q = g.conv2d(g.quantize(g.input(8, 5, 5)), 24, (1, 1))
    assert_same_bits(g.module(*halves(g, q, 7)), batch_sizes=(2,))

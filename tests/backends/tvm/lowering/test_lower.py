"""Every lowering rule, on the smallest graph that shows it, against the reference backend."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.fx import GraphModule, Node

from qpc.calls import aten, qpc_ops
from qpc.errors import BackendError, OverflowProofError, UnsupportedTargetError
from tests.backends.tvm.checking import assert_same_bits, kernels
from tests.generators import IntegerGraph

pytest.importorskip("tvm_ffi", reason="Apache TVM is not installed")
from tvm import relax

from qpc.backends import tvm
from qpc.targets import Target

pytestmark = pytest.mark.tvm

Build = Callable[[IntegerGraph], Node]


def _image(g: IntegerGraph) -> Node:
    return g.image(6, 7, 5)


RULES: dict[str, Build] = {
    "conv2d": lambda g: g.conv2d(_image(g), 9, (3, 2), stride=(2, 1), padding=(1, 2)),
    "dilated conv2d": lambda g: g.conv2d(_image(g), 9, dilation=(2, 1), padding=(2, 0)),
    "grouped conv2d": lambda g: g.conv2d(_image(g), 4, groups=2),
    "depthwise conv2d": lambda g: g.conv2d(_image(g), 6, padding=(1, 1), groups=6),
    "conv2d with extreme numbers": lambda g: g.conv2d(_image(g), 20, extreme=True),
    "linear": lambda g: g.linear(g.image(13), 5),
    "linear on tokens": lambda g: g.linear(g.image(7, 13), 5),
    "linear on logical NHWC": lambda g: g.linear(g.permute(_image(g), 0, 2, 3, 1), 5),
    "linear on the last image axis": lambda g: g.linear(g.conv2d(_image(g), 3), 4),
    "linear on one feature": lambda g: g.linear(g.image(3, 1), 4),
    "linear, clamped": lambda g: g.clamp(g.linear(g.image(13), 5)),
    "add": lambda g: g.add(_image(g), g.image(6, 7, 5)),
    "add to itself": lambda g: g.add(x := _image(g), x),
    "add, broadcast": lambda g: g.add(_image(g), g.image(6, 1, 1)),
    "add, broadcast over rank": lambda g: g.add(
        _image(g), g.constant(torch.arange(35, dtype=torch.uint8).reshape(7, 5))
    ),
    "add of two layouts": lambda g: g.add(g.conv2d(_image(g), 6, (1, 1)), g.image(6, 7, 5)),
    "mul": lambda g: g.mul(_image(g), g.image(6, 7, 5)),
    "mul, broadcast": lambda g: g.mul(g.conv2d(_image(g), 6, (1, 1)), g.image(6, 1, 1)),
    "mul, both sides broadcast": lambda g: g.mul(g.image(6, 1, 5), g.image(1, 7, 1)),
    "max_pool2d": lambda g: g.max_pool2d(_image(g), (3, 2), (2, 1), (1, 0)),
    "max_pool2d, dilated": lambda g: g.max_pool2d(_image(g), (2, 2), (1, 1), (0, 1), (2, 1)),
    "max_pool2d, rounding up": lambda g: g.max_pool2d(_image(g), (2, 2), (2, 2), ceil_mode=True),
    "avg_pool2d": lambda g: g.avg_pool2d(_image(g), (3, 2), (2, 1), (1, 1)),
    "pools without a stride": lambda g: g.call(
        qpc_ops.max_pool2d.default, _image(g), [2, 2], [], [0, 0], [1, 1], False
    ),
    "mean of images": lambda g: g.mean(_image(g), (2, 3)),
    "mean, axes kept": lambda g: g.mean(g.conv2d(_image(g), 6), (2, 3), True),
    "mean of channels": lambda g: g.mean(g.conv2d(_image(g), 6), (1,)),
    "mean of one middle axis": lambda g: g.mean(g.conv2d(_image(g), 6), (-2,)),
    "mean of tokens": lambda g: g.mean(g.image(7, 13), (1,)),
    "lookup": lambda g: g.lookup(_image(g)),
    "clamp": lambda g: g.clamp(_image(g)),
    "quantize": lambda g: g.quantize(g.input(6, 7, 5)),
    "quantize for images": lambda g: g.conv2d(g.quantize(g.input(6, 7, 5)), 3),
    "quantize, then a pool behind a table": lambda g: g.max_pool2d(
        g.lookup(g.quantize(g.input(6, 7, 5))), (2, 2), (2, 2)
    ),
    "dequantize": lambda g: g.dequantize(_image(g)),
    "dequantize images": lambda g: g.dequantize(g.conv2d(_image(g), 6)),
}


@pytest.mark.thorough
@pytest.mark.parametrize("target", ["native", "x86-64-avx2", "x86-64"])
def test_rules_give_the_bits_of_the_reference(target: str) -> None:
    """All rules in one graph per target: compiling has a fixed cost."""
    if Target.parse(target).runs_here():
        pytest.skip(f"this machine cannot run {target}")
    g = IntegerGraph()
    outputs = [build(g) for build in RULES.values()]
    assert_same_bits(g.module(*outputs), target, batch_sizes=(2,))


@pytest.mark.every(9)
@pytest.mark.parametrize("rule", ["conv2d", "linear", "add, broadcast", "mean of images"])
@pytest.mark.parametrize("threads", [1, 2])
def test_rules_work_at_every_batch_size(rule: str, threads: int) -> None:
    g = IntegerGraph()
    assert_same_bits(g.module(RULES[rule](g)), batch_sizes=(1, 2, 3, 4, 5), threads=threads)


def test_several_vectors_that_something_joins_are_stored_in_order() -> None:
    if Target.parse("x86-64-avx2").runs_here():
        pytest.skip("this machine cannot run x86-64-avx2")
    g = IntegerGraph()
    x = g.image(64, 6, 5)
    outputs = [g.joined(g.conv2d(x, 64, kernel, padding=p), x) for kernel, p in _SAME]
    assert_same_bits(g.module(*outputs), "x86-64-avx2")


_SAME = (((3, 3), (1, 1)), ((1, 1), (0, 0)))


def _conv(g: IntegerGraph) -> Node:
    return g.conv2d(_image(g), 8, padding=(1, 1))


MOVEMENT: dict[str, tuple[Build, list[str]]] = {
    "permute": (
        lambda g: g.linear(g.permute(_conv(g), 0, 2, 3, 1), 3),
        ["transpose", "conv2d", "conv2d"],
    ),
    "transpose": (
        lambda g: g.call(aten.transpose.int, g.reshape(_conv(g), -1, 8, 35), 1, -1),
        ["transpose", "conv2d"],
    ),
    "flatten of images": (
        lambda g: g.reshape(_conv(g), -1, 280),
        ["transpose", "conv2d", "transpose"],
    ),
    "flatten of 1x1 images": (
        lambda g: g.reshape(g.mean(_conv(g), (2, 3), True), -1, 8),
        ["transpose", "conv2d", "mean"],
    ),
    "channel shuffle": (
        lambda g: g.conv2d(
            g.reshape(g.permute(g.reshape(_conv(g), -1, 2, 4, 7, 5), 0, 2, 1, 3, 4), -1, 8, 7, 5),
            3,
        ),
        ["transpose", "conv2d", "transpose", "conv2d", "transpose"],
    ),
    "windows": (
        lambda g: g.permute(g.reshape(g.image(4, 6, 8), -1, 4, 2, 3, 2, 4), 0, 2, 4, 3, 5, 1),
        ["transpose"],
    ),
    "unsqueeze and squeeze": (
        lambda g: g.call(aten.squeeze.dims, g.call(aten.unsqueeze.default, _conv(g), 2), [2]),
        ["transpose", "conv2d", "transpose"],
    ),
    "slice of channels": (
        lambda g: g.slice(_conv(g), 1, 1, -1, 2),
        ["transpose", "conv2d", "slice", "transpose"],
    ),
    "slice up to the end": (lambda g: g.slice(_image(g), 3, -2, 2**63 - 1), ["slice"]),
    "slice of everything": (lambda g: g.slice(_image(g), 3, 0, 2**63 - 1), []),
    "select": (lambda g: g.call(aten.select.int, _image(g), 2, -3), ["slice"]),
    "cat of channels": (
        lambda g: g.conv2d(g.cat(x := _conv(g), g.conv2d(x, 3, (1, 1)), x), 2),
        ["transpose", "conv2d", "conv2d", "place", "conv2d", "transpose"],
    ),
    "cat of rows": (lambda g: g.cat(x := _image(g), x, dim=-2), ["concatenate"]),
    "cat of two layouts": (
        lambda g: g.cat(g.conv2d(x := _image(g), 6, (1, 1)), x, dim=2),
        ["transpose", "conv2d", "transpose", "concatenate", "transpose"],
    ),
    "stack": (lambda g: g.call(aten.stack.default, [x := _image(g), x], 2), ["concatenate"]),
    "pad": (lambda g: g.call(aten.constant_pad_nd.default, _image(g), [1, 0, -2, 3], 9), ["pad"]),
    "pad of everything": (
        lambda g: g.call(aten.constant_pad_nd.default, g.image(2, 3), [0, 1, -1, 4], 255),
        ["pad"],
    ),
    "expand": (lambda g: g.call(aten.expand.default, g.image(6, 1, 5), [-1, 6, 4, 5]), ["slice"]),
    "flip": (
        lambda g: g.call(aten.flip.default, _conv(g), [1, -1]),
        ["transpose", "conv2d", "slice", "transpose"],
    ),
    "roll": (lambda g: g.call(aten.roll.default, _image(g), [2, -1], [1, -1]), ["roll"]),
    "roll of one axis twice": (
        lambda g: g.call(aten.roll.default, _image(g), [2, 3], [1, 1]),
        ["roll"],
    ),
    "roll by nothing": (lambda g: g.call(aten.roll.default, _image(g), [7], [2]), ["roll"]),
    "pixels out of channels": (
        lambda g: g.call(aten.pixel_shuffle.default, g.image(12, 3, 5), 2),
        ["transpose"],
    ),
    "pixels into channels": (
        lambda g: g.call(aten.pixel_unshuffle.default, g.image(3, 4, 6), 2),
        ["transpose"],
    ),
    "shuffle of channels": (
        lambda g: g.call(aten.channel_shuffle.default, _image(g), 2),
        ["transpose"],
    ),
    "copies that do nothing": (lambda g: g.call(aten.clone.default, _image(g)), []),
    "movement of a constant": (
        lambda g: g.add(
            g.image(4, 1, 1),
            g.call(
                aten.permute.default, g.constant(torch.ones(2, 4, 3, dtype=torch.uint8)), [1, 2, 0]
            ),
        ),
        ["add"],
    ),
}


@pytest.mark.parametrize("case", MOVEMENT)
def test_movement_needs_these_kernels_and_no_more(case: str) -> None:
    build, expected = MOVEMENT[case]
    g = IntegerGraph()
    compiled = tvm.compile_graph(g.module(build(g)))
    assert kernels(compiled) == expected


@pytest.mark.thorough
def test_movement_gives_the_bits_of_the_reference() -> None:
    g = IntegerGraph()
    assert_same_bits(g.module(*(build(g) for build, _ in MOVEMENT.values())), batch_sizes=(1, 2))


def test_shuffles_give_the_bits_of_the_reference() -> None:
    g = IntegerGraph()
    cases = [
        build for case, (build, _) in MOVEMENT.items() if "pixels" in case or "shuffle" in case
    ]
    assert len(cases) == 4
    assert_same_bits(g.module(*(build(g) for build in cases)), batch_sizes=(2,))


def test_movement_of_signed_integers_works_too() -> None:
    g = IntegerGraph()
    x = g.input(4, 5, dtype=torch.int8)
    assert_same_bits(g.module(g.permute(g.call(aten.flip.default, x, [1]), 0, 2, 1)))


def test_roll_of_a_flattened_tensor() -> None:
    g = IntegerGraph()
    assert_same_bits(g.module(g.call(aten.roll.default, g.image(3, 4), [5], [])), batch_sizes=(2,))


def test_large_copies_use_threads() -> None:
    g = IntegerGraph()
    x = g.image(64, 64, 32)
    assert_same_bits(g.module(g.conv2d(x, 3, (1, 1)), g.permute(x, 0, 2, 3, 1)), threads=2)


@pytest.mark.thorough
def test_float_between_integers_stays_exact_where_float_is() -> None:
    g = IntegerGraph()
    q = g.conv2d(g.quantize(g.input(3, 6, 6)), 4)
    island = g.quantize(g.call(aten.relu.default, g.dequantize(q)))
    compiled = assert_same_bits(g.module(g.dequantize(g.conv2d(island, 5))), batch_sizes=(1, 3))
    (other,) = compiled.report.others
    assert (other.operator, other.reason) == (
        "aten.relu.default",
        "float32, compiled by TVM's own rules",
    )


def test_integer_operators_without_a_kernel_are_reported_and_exact() -> None:
    g = IntegerGraph()
    index = g.constant(torch.tensor([2, 0, 0]))
    gm = g.module(g.call(aten.index.Tensor, g.conv2d(_image(g), 4), [None, index]))
    (other,) = assert_same_bits(gm).report.others
    assert other.reason == "no integer kernel, compiled by TVM's own rules"


def test_floats_behind_layers_stay_in_the_order_of_images() -> None:
    g = IntegerGraph()
    x = g.input(6, 7, 5)
    q = g.conv2d(g.quantize(x), 6, (1, 1))
    rows = g.call(aten.relu.default, g.input(7, 5, 6))
    total = g.call(aten.add.Tensor, g.dequantize(q), g.permute(rows, 0, 3, 1, 2))
    total = g.call(aten.sub.Tensor, total, x)
    made = g.module(g.conv2d(g.quantize(total), 3), g.permute(total, 0, 2, 3, 1))
    assert kernels(assert_same_bits(made, batch_sizes=(1, 2))) == [
        *("quantize", "conv2d", "dequantize", "transpose", "quantize", "conv2d", "transpose")
    ], "the input x and the output are transposed, nothing in between"


def test_numbers_from_shapes_become_constants() -> None:
    g = IntegerGraph()
    x = g.input(4, 3)
    size = g.call(aten.sym_size.int, x, 0)
    flat = g.graph.call_function(aten.reshape.default, (x, [size, 12]))
    compiled = tvm.compile_graph(g.module(flat), batch_sizes=(2, 3))
    assert compiled(torch.ones(3, 4, 3)).shape == (3, 12)


@pytest.mark.parametrize("keepdim", [False, True])
def test_sums_and_means_give_the_bits_of_the_reference(keepdim: bool) -> None:
    g = IntegerGraph()
    x = _image(g)
    total = g.sum(x, (1, -1), keepdim)
    assert_same_bits(g.module(total, g.mean(x, (2,), keepdim), g.mean(x, ())), batch_sizes=(1, 3))


def test_a_graph_whose_sums_may_not_fit_is_refused_whoever_made_it() -> None:
    g = IntegerGraph()
    weight = g.constant(torch.full((1, 4), 127, dtype=torch.int8))
    bias = g.constant(torch.tensor([2**31 - 1], dtype=torch.int32))
    factor = g.constant(torch.ones(1))
    numbers = (weight, bias, factor, 0, 0, 0, 255)
    gm = g.module(g.call(qpc_ops.linear.default, g.image(4), *numbers))
    with pytest.raises(OverflowProofError, match="accumulator can reach 2147613187, which does"):
        tvm.compile_graph(gm)


def test_dead_nodes_are_not_compiled() -> None:
    g = IntegerGraph()
    x = _image(g)
    g.call(aten.linalg_inv_ex.default, g.constant(torch.eye(3)))
    g.conv2d(x, 4)
    assert kernels(assert_same_bits(g.module(g.clamp(x)))) == ["clamp"]


def test_several_inputs_and_outputs() -> None:
    g = IntegerGraph()
    x, y = g.image(3, 5, 5), g.input(3, 5, 5)
    q = g.quantize(y)
    assert_same_bits(g.module(g.add(x, q), y, x, q, q, g.dequantize(x)), batch_sizes=(1, 2))


def test_an_output_never_shares_memory_with_an_input_or_a_weight() -> None:
    g = IntegerGraph()
    x = g.image(4, 3)
    weight = g.constant(torch.ones(2, 3))
    gm = g.module(x, g.reshape(x, -1, 12), weight, g.reshape(g.reshape(x, -1, 2, 6), -1, 12))
    compiled = assert_same_bits(gm)
    given = torch.zeros(1, 4, 3, dtype=torch.uint8)
    for result in compiled(given):
        result.fill_(7)
    assert int(given.sum()) == 0
    assert compiled(given)[2].tolist() == [[1] * 3] * 2


def _signed(g: IntegerGraph) -> GraphModule:
    return g.module(g.call(qpc_ops.clamp.default, g.input(4, dtype=torch.int8), -5, 5))


def _signed_quantize(g: IntegerGraph) -> GraphModule:
    return g.module(g.call(qpc_ops.quantize.default, g.input(4), 0.5, 0, -128, 127, torch.int8))


def _quantized_doubles(g: IntegerGraph) -> GraphModule:
    x = g.input(4, dtype=torch.float64)
    return g.module(g.call(qpc_ops.quantize.default, x, 0.5, 0, 0, 255, torch.uint8))


def _moving_weight(g: IntegerGraph) -> GraphModule:
    weight = g.call(aten._to_copy.default, g.input(3), dtype=torch.int8)
    numbers = [g.constant(torch.zeros(1, dtype=d)) for d in (torch.int32, torch.float32)]
    return g.module(g.call(qpc_ops.linear.default, g.image(3), weight, *numbers, 0, 0, 0, 255))


def _number(g: IntegerGraph) -> GraphModule:
    return g.module(g.call(aten.sym_size.int, g.input(3), 0))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (_quantized_doubles, "integer kernels quantize float32, not float64"),
        (_moving_weight, "'weight' of qpc.linear.default must be a constant"),
        (_number, "the model returns something that is not a tensor"),
    ],
)
def test_what_kernels_cannot_do_is_an_error_at_the_node(
    build: Callable[[IntegerGraph], GraphModule], message: str
) -> None:
    with pytest.raises(BackendError, match=message) as caught:
        tvm.compile_graph(build(IntegerGraph()))
    assert "at node: %" in caught.value.full_text


@pytest.mark.parametrize("build", [_signed, _signed_quantize])
def test_signed_grids_are_compiled_for_products_of_unsigned_ones(
    build: Callable[[IntegerGraph], GraphModule],
) -> None:
    assert_same_bits(build(IntegerGraph()))


@pytest.mark.parametrize("threads", [0, -1, 1.5, True])
def test_threads_is_a_positive_number(threads: int) -> None:
    g = IntegerGraph()
    with pytest.raises(BackendError, match=f"threads must be a positive number, got {threads}"):
        tvm.compile_graph(g.module(_image(g)), threads=threads)


def test_an_unknown_target_is_an_error_that_lists_targets() -> None:
    g = IntegerGraph()
    with pytest.raises(UnsupportedTargetError, match="unknown target 'pdp-11'"):
        tvm.compile_graph(g.module(_image(g)), "pdp-11")


def test_ctrl_c_before_a_block_begins_is_ctrl_c(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(builder: relax.BlockBuilder) -> None:
        raise KeyboardInterrupt

    g = IntegerGraph()
    gm = g.module(_image(g))
    with monkeypatch.context() as patch:
        patch.setattr(relax.BlockBuilder, "dataflow", interrupted)
        with pytest.raises(KeyboardInterrupt):
            tvm.compile_graph(gm)
    assert_same_bits(gm)

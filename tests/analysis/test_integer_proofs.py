from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch.fx import GraphModule, Node

from qpc.analysis.integer_proofs import check_integers
from qpc.calls import arguments, aten, qpc_ops, set_arguments
from qpc.errors import BackendError, OverflowProofError, QPCError
from qpc.quant.arithmetic import MOST_SUMMED
from qpc.shapes import concrete_shapes
from tests.generators import IntegerGraph, random_graph

Build = Callable[[IntegerGraph, Node], Node]


def check(gm: GraphModule) -> None:
    check_integers(gm, concrete_shapes(gm, 1))


def graph_of(build: Build, *sizes: int) -> GraphModule:
    g = IntegerGraph()
    return g.module(build(g, g.image(*(sizes or (4, 6, 5)))))


def linear_of_sum(total: int, q: Callable[[IntegerGraph], Node], bias: int = 0) -> GraphModule:
    """A layer whose weights are positive and have this sum; its input counts from 0."""
    g = IntegerGraph()
    value = q(g)
    features = g.shape(value)[-1]
    weight = torch.full((1, features), total // features, dtype=torch.int8)
    weight[0, : total % features] += 1
    tensors = [g.constant(t) for t in (weight, torch.tensor([bias], dtype=torch.int32))]
    factor = g.constant(torch.tensor([1e-8]))
    return g.module(g.call(qpc_ops.linear.default, value, *tensors, factor, 0, 0, 0, 255))


@pytest.mark.parametrize("seed", range(20))
def test_holds_for_graphs_that_are_right(seed: int) -> None:
    check(random_graph(seed))


def test_an_accumulator_may_reach_the_last_integer_and_no_further() -> None:
    def image(g: IntegerGraph) -> Node:
        return g.image(80000)

    total, rest = divmod(2**31 - 1, 255)
    check(linear_of_sum(total, image, bias=rest))
    with pytest.raises(
        OverflowProofError,
        match=r"linear.*accumulator can reach 2147483648, which does not fit",
    ):
        check(linear_of_sum(total, image, bias=rest + 1))


@pytest.mark.parametrize(
    "narrow",
    [
        lambda g, q: g.clamp(q, 0, 15),
        lambda g, q: g.clamp(g.clamp(q, 0, 200), 3, 15),
        lambda g, q: g.call(qpc_ops.lookup.default, q, g.constant(torch.arange(256).byte() // 17)),
        lambda g, q: g.reshape(g.clamp(q, 0, 15), -1, 80000),
        lambda g, q: g.call(aten.flip.default, g.clamp(q, 0, 15), [1]),
        lambda g, q: g.call(qpc_ops.add.default, q, q, 0, 0, 1, 1, 1, 0, 0, 15),
        lambda g, q: g.call(aten.constant_pad_nd.default, g.clamp(q, 0, 15), [2, 2], 15),
    ],
)
def test_sums_of_smaller_values_may_have_larger_weights(narrow: Build) -> None:
    """With any byte as input, the accumulator could reach 255 * 10_000_000."""
    check(linear_of_sum(10_000_000, lambda g: narrow(g, g.image(80000))))


@pytest.mark.parametrize(
    "wide",
    [
        lambda g, q: q,
        lambda g, q: g.call(aten.constant_pad_nd.default, g.clamp(q, 0, 15), [2, 2], 255),
        lambda g, q: g.cat(g.slice(g.clamp(q, 0, 15), 1, 0, 40000), g.slice(q, 1, 0, 40000)),
        lambda g, q: g.call(aten.bitwise_not.default, g.clamp(q, 0, 15)),
    ],
)
def test_one_way_to_a_large_value_is_enough(wide: Build) -> None:
    with pytest.raises(OverflowProofError, match="can reach 2550000000, which does not fit"):
        check(linear_of_sum(10_000_000, lambda g: wide(g, g.image(80000))))


def test_padding_counts_as_the_zero_point_wherever_the_values_lie() -> None:
    """Values from 200 on, zero point 0: a sum that leaves out one of them may be larger."""
    g = IntegerGraph()
    q = g.clamp(g.image(1, 3, 3), 200, 255)
    weight = g.constant(torch.tensor([-127, 127], dtype=torch.int8).reshape(1, 1, 2, 1))
    bias = g.constant(torch.tensor([2**31 - 1 - 127 * 255 + 1], dtype=torch.int32))
    factor = g.constant(torch.ones(1))
    window = ([1, 1], [1, 0], [1, 1], 1)
    made = g.call(qpc_ops.conv2d.default, q, weight, bias, factor, *window, 0, 0, 0, 255)
    with pytest.raises(OverflowProofError, match="can reach 2147483648"):
        check(g.module(made))


@pytest.mark.parametrize("kind", ["sum", "mean"])
def test_sums_of_too_many_values_are_refused(kind: str) -> None:
    def build(g: IntegerGraph, q: Node) -> Node:
        return g.mean(q, (2, 3)) if kind == "mean" else g.sum(q, (2, 3))

    check(graph_of(build, 1, 2901, 2902))
    with pytest.raises(OverflowProofError, match=f"a sum of {2903 * 2902} integers may not fit"):
        check(graph_of(build, 1, 2903, 2902))
    assert 2901 * 2902 <= MOST_SUMMED < 2903 * 2902


def test_average_pools_over_too_many_values_are_refused() -> None:
    with pytest.raises(OverflowProofError, match="a sum of 9000000 integers may not fit 32 bits"):
        check(graph_of(lambda g, q: g.avg_pool2d(q, (3000, 3000), (1, 1)), 1, 3000, 3000))


def test_tensors_beyond_32_bits_of_elements_are_refused() -> None:
    with pytest.raises(BackendError, match="a tensor of 2147483648 elements is too large"):
        check(graph_of(lambda g, q: g.clamp(q), 2**11, 2**10, 2**10))


def conv(g: IntegerGraph, q: Node) -> Node:
    return g.conv2d(q, 3)


def joined(g: IntegerGraph, q: Node) -> Node:
    return g.joined(g.conv2d(q, 4, padding=(1, 1)), q)


ILLEGAL: dict[str, tuple[Build, dict[str, object]]] = {
    "'input_zero_point' is 256, which is no torch.uint8": (conv, {"input_zero_point": 256}),
    "'output_zero_point' is -1, which is no torch.uint8": (conv, {"output_zero_point": -1}),
    "'lo' is -5, which is no torch.uint8": (lambda g, q: g.clamp(q), {"lo": -5}),
    "'hi' is 300, which is no torch.uint8": (lambda g, q: g.mean(q, [2]), {"hi": 300}),
    "its bounds are 9 and 3": (lambda g, q: g.mul(q, q), {"lo": 9, "hi": 3}),
    "'a_multiplier' is 32768, which does not fit 16": (
        lambda g, q: g.add(q, q),
        {"a_multiplier": 32768},
    ),
    "'b_multiplier' is -32769, which does not fit": (
        lambda g, q: g.add(q, q),
        {"b_multiplier": -32769},
    ),
    "'shift' is 13 and 'other_multiplier' 8257: 255 . .* must be 4194304": (
        joined,
        {"shift": 13, "other_multiplier": 8257},
    ),
    "'shift' is -1 and 'other_multiplier' 1": (joined, {"shift": -1, "other_multiplier": 1}),
    "'shift' is 99 and 'other_multiplier' 1": (joined, {"shift": 99, "other_multiplier": 1}),
    "'other_zero_point' is 256, which is no torch.uint8": (joined, {"other_zero_point": 256}),
    "'shift' must be from 0 to 30, got 31": (lambda g, q: g.add(q, q), {"shift": 31}),
    "multiplier is negative, infinite or NaN": (
        lambda g, q: g.mul(q, q),
        {"multiplier": float("nan")},
    ),
    "multiplier 3.62968e.38 does not fit float32": (
        lambda g, q: g.mean(q, [2, 3]),
        {"input_scale": 2.0**119, "output_scale": 2.0**-14},
    ),
    "'input_scale' must be from 2..-126 to 2..119": (
        lambda g, q: g.mean(q, [2, 3]),
        {"input_scale": float("inf")},
    ),
    "'scale' must be from 2..-126 to 2..119, got 0.0": (
        lambda g, q: g.dequantize(q),
        {"scale": 0.0},
    ),
    r"it resizes images of \(6, 6\) pixels, not of \(6, 5\)": (
        lambda g, q: g.resize2d(q, 3, 3, linear=True),
        {"input_size": [6, 6]},
    ),
}


@pytest.mark.parametrize("message", ILLEGAL)
def test_illegal_numbers_are_refused(message: str) -> None:
    build, changes = ILLEGAL[message]
    gm = graph_of(build)
    node = gm.graph.output_node().args[0]
    assert isinstance(node, Node)
    types = concrete_shapes(gm, 1)
    check_integers(gm, types)
    set_arguments(node, **changes)
    with pytest.raises(QPCError, match=message) as e:
        check_integers(gm, types)
    assert e.value.node is node
    assert e.value.fix is not None


CONSTANTS: dict[str, tuple[Build, str, torch.Tensor | None]] = {
    "'weight' is torch.int16, not torch.int8": (
        conv,
        "weight",
        torch.zeros(3, 4, 3, 3, dtype=torch.int16),
    ),
    "'weight' of qpc.conv2d.default must be a constant": (conv, "weight", None),
    "3 outputs, 2 biases and 3 multipliers": (conv, "bias", torch.zeros(2, dtype=torch.int32)),
    "multiplier is negative, infinite or NaN": (conv, "multiplier", -torch.ones(3)),
    "a table has 256 entries, not 255": (
        lambda g, q: g.lookup(q),
        "table",
        torch.zeros(255, dtype=torch.uint8),
    ),
    "'rows' has places outside the image": (
        lambda g, q: g.resize2d(q, 3, 3, linear=True),
        "rows",
        torch.tensor([5 * 2048 + 1], dtype=torch.int32),
    ),
    "'columns' has places outside the image": (
        lambda g, q: g.resize2d(q, 3, 3, linear=True),
        "columns",
        torch.tensor([-1], dtype=torch.int32),
    ),
}


@pytest.mark.parametrize("message", CONSTANTS)
def test_illegal_constants_are_refused(message: str) -> None:
    build, name, tensor = CONSTANTS[message]
    gm = graph_of(build)
    node = gm.graph.output_node().args[0]
    assert isinstance(node, Node)
    types = concrete_shapes(gm, 1)
    given = arguments(node)[name]
    if tensor is None:
        set_arguments(node, **{name: arguments(node)["q"]})
    else:
        setattr(gm, str(given.target), tensor)
    with pytest.raises(BackendError, match=message):
        check_integers(gm, types)


def test_values_that_are_no_bytes_are_refused() -> None:
    g = IntegerGraph()
    gm = g.module(g.clamp(g.input(4, dtype=torch.int32)))
    with pytest.raises(BackendError, match=r"works on torch\.int32, not on integers of 8 bits"):
        check(gm)

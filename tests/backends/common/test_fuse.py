from __future__ import annotations

from collections.abc import Callable

import pytest

pytest.importorskip("tvm_ffi", reason="Apache TVM is not installed")
import torch
from torch.fx import GraphModule, Node

from qpc.backends.common.fuse import find_groups
from qpc.backends.tvm.lowering.rules import trait_table
from qpc.calls import qpc_ops
from qpc.shapes import concrete_shapes
from tests.backends.tvm.checking import assert_same_bits
from tests.generators import IntegerGraph

pytestmark = pytest.mark.tvm


def _groups(gm: GraphModule) -> list[list[str]]:
    found = find_groups(gm, concrete_shapes(gm, 2), trait_table())
    return [[n.name for n in (g.anchor, *g.stages)] for g in found]


def _conv(g: IntegerGraph, x: Node) -> Node:
    return g.conv2d(x, 5, padding=(1, 1))


def _residual(g: IntegerGraph) -> list[Node]:
    x = g.image(5, 6, 6)
    return [g.add(_conv(g, x), x)]


def _residual_on_the_left(g: IntegerGraph) -> list[Node]:
    x = g.image(5, 6, 6)
    return [g.add(x, _conv(g, x))]


def _by_name(g: IntegerGraph) -> list[Node]:
    x = g.image(5, 6, 6)
    arguments: dict[str, Node | int] = {
        "b": _conv(g, x),
        "a": x,
        "a_zero_point": 3,
        "b_zero_point": 7,
        "a_multiplier": 100,
        "b_multiplier": 50,
        "shift": 7,
        "output_zero_point": 9,
        "lo": 0,
        "hi": 255,
    }
    return [g.call(qpc_ops.add.default, **arguments)]


def _two_layers(g: IntegerGraph) -> list[Node]:
    x = g.image(5, 6, 6)
    return [g.add(_conv(g, x), _conv(g, x))]


def _chain(g: IntegerGraph) -> list[Node]:
    x = g.image(5, 6, 6)
    return [g.clamp(g.lookup(g.add(_conv(g, x), x)))]


def _other_operand_comes_later(g: IntegerGraph) -> list[Node]:
    x = g.image(5, 6, 6)
    early = _conv(g, x)
    return [g.add(early, g.lookup(g.max_pool2d(x, (3, 3), (1, 1), (1, 1))))]


def _two_adds(g: IntegerGraph) -> list[Node]:
    x = g.image(5, 6, 6)
    return [g.add(x, g.lookup(g.add(_conv(g, x), x)))]


def _linear(g: IntegerGraph) -> list[Node]:
    x = g.image(4, 5)
    return [g.add(g.lookup(g.linear(x, 5)), x)]


def _transposed_convolution(g: IntegerGraph) -> list[Node]:
    x = g.image(5, 6, 6)
    larger = g.conv_transpose2d(x, 5, (2, 2), stride=(2, 2))
    return [g.lookup(g.add(larger, g.image(5, 12, 12)))]


def _transposed_linear(g: IntegerGraph) -> list[Node]:
    x = g.image(5, 4)
    return [g.add(g.linear(g.permute(x, 0, 2, 1), 5), g.permute(x, 0, 2, 1))]


def _five_stages(g: IntegerGraph) -> list[Node]:
    value = _conv(g, g.image(5, 6, 6))
    for _ in range(5):
        value = g.clamp(value)
    return [value]


def _two_tables(g: IntegerGraph) -> list[Node]:
    return [g.lookup(g.clamp(g.lookup(_conv(g, g.image(5, 6, 6)))))]


FUSED: dict[str, tuple[Callable[[IntegerGraph], list[Node]], list[list[str]]]] = {
    "residual add": (_residual, [["conv2d_default", "add_default"]]),
    "residual add, other side": (_residual_on_the_left, [["conv2d_default", "add_default"]]),
    "arguments by name": (_by_name, [["conv2d_default", "add_default"]]),
    "the later of two layers": (
        _two_layers,
        [["conv2d_default"], ["conv2d_default_1", "add_default"]],
    ),
    "a chain": (
        _chain,
        [["conv2d_default", "add_default", "lookup_default", "clamp_default"]],
    ),
    "an operand that comes later": (
        _other_operand_comes_later,
        [["conv2d_default", "add_default"]],
    ),
    "two additions": (
        _two_adds,
        [["conv2d_default", "add_default", "lookup_default", "add_default_1"]],
    ),
    "linear": (_linear, [["linear_default", "lookup_default", "add_default"]]),
    "transposed convolution": (
        _transposed_convolution,
        [["conv_transpose2d_default", "add_default", "lookup_default"]],
    ),
    "linear in another order": (_transposed_linear, [["linear_default", "add_default"]]),
    "at most four stages": (
        _five_stages,
        [["conv2d_default", "clamp_default", *(f"clamp_default_{i}" for i in (1, 2, 3))]],
    ),
    "at most one table": (_two_tables, [["conv2d_default", "lookup_default", "clamp_default"]]),
}


def _shared(g: IntegerGraph) -> list[Node]:
    x = g.image(5, 6, 6)
    y = _conv(g, x)
    return [g.add(y, x), y]


def _with_itself(g: IntegerGraph) -> list[Node]:
    y = _conv(g, g.image(5, 6, 6))
    return [g.add(y, y)]


def _broadcast(g: IntegerGraph) -> list[Node]:
    return [g.add(_conv(g, g.image(5, 6, 6)), g.image(5, 1, 1))]


def _product(g: IntegerGraph) -> list[Node]:
    x = g.image(5, 6, 6)
    return [g.mul(_conv(g, x), x)]


NOT_FUSED = {
    "a value that is read twice": _shared,
    "a sum with itself": _with_itself,
    "a broadcast": _broadcast,
    "a product": _product,
}


@pytest.mark.parametrize("case", FUSED)
def test_fuses(case: str) -> None:
    build, expected = FUSED[case]
    g = IntegerGraph()
    assert _groups(g.module(*build(g))) == expected


@pytest.mark.parametrize("case", NOT_FUSED)
def test_does_not_fuse(case: str) -> None:
    g = IntegerGraph()
    assert _groups(g.module(*NOT_FUSED[case](g))) == [["conv2d_default"]]


@pytest.mark.thorough
def test_fused_kernels_give_the_bits_of_the_reference() -> None:
    g = IntegerGraph()
    builds = [build for build, _ in FUSED.values()] + list(NOT_FUSED.values())
    compiled = assert_same_bits(g.module(*(n for b in builds for n in b(g))), batch_sizes=(2,))
    assert len(compiled.report.fused) == len(FUSED)
    assert torch.is_tensor(compiled(*_zeros(compiled))[0])


def _zeros(compiled: object) -> list[torch.Tensor]:
    types = compiled.signature.inputs[2]  # type: ignore[attr-defined]  # a compiled model of TVM
    return [torch.zeros(t.shape, dtype=t.dtype) for t in types]

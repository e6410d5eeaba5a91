from __future__ import annotations

from collections.abc import Callable

import pytest

pytest.importorskip("tvm_ffi", reason="Apache TVM is not installed")
from torch.fx import Node

from qpc.backends.common.orders import NHWC, Order, channels_last, choose_orders, identity
from qpc.backends.tvm.lowering.rules import trait_table
from qpc.shapes import concrete_shapes
from tests.generators import IntegerGraph

pytestmark = pytest.mark.tvm

READERS: dict[str, tuple[Callable[[IntegerGraph, Node], Node], Order]] = {
    "a layer": (lambda g, q: g.conv2d(q, 4), NHWC),
    "a layer behind others": (lambda g, q: g.conv2d(g.lookup(g.add(q, q)), 4), NHWC),
    "a matrix product": (lambda g, q: g.linear(q, 4), identity(4)),
    "a mean": (lambda g, q: g.mean(q, (2, 3)), identity(4)),
    "itself": (lambda g, q: q, identity(4)),
    "the nearest": (lambda g, q: g.add(g.linear(g.lookup(q), 6), g.conv2d(q, 8, (1, 1))), NHWC),
}


@pytest.mark.parametrize("reader", READERS)
def test_a_quantized_input_is_stored_as_its_nearest_reader_wants(reader: str) -> None:
    build, wanted = READERS[reader]
    g = IntegerGraph()
    q = g.quantize(g.input(8, 6, 6))
    gm = g.module(build(g, q))
    nodes = [node for node in gm.graph.nodes if node.op != "output"]
    assert list(choose_orders(nodes, concrete_shapes(gm, 1), (), trait_table()).values()) == [
        wanted
    ]


def test_only_images_have_channels_last() -> None:
    assert [channels_last(rank) for rank in (2, 3, 4)] == [identity(2), identity(3), NHWC]

"""Everything about a small network that is decided before code is made."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

pytest.importorskip("tvm_ffi", reason="Apache TVM is not installed")

import torch

from qpc.backends.common.fuse import Group
from qpc.backends.common.graph_plan import GraphPlan, plan_graph
from qpc.backends.common.orders import NHWC
from qpc.backends.tvm import compile_graph
from qpc.backends.tvm.lowering.rules import trait_table
from qpc.calls import qpc_ops
from tests.backends.common.test_fused_padding import start
from tests.generators import IntegerGraph

pytestmark = pytest.mark.tvm


def planned() -> tuple[IntegerGraph, GraphPlan]:
    """A padded layer, one that adds, a concat of both, and a value that nobody reads."""
    g, q = start()
    a = g.conv2d(g.pad(q, 0, 1, 0, 2), 8, (1, 1))
    b = g.add(g.conv2d(a, 8, (1, 1)), a)
    g.lookup(q)
    gm = g.module(g.mean(g.cat(a, b), (2, 3)))
    return g, plan_graph(gm, 2, trait_table())


def test_nodes_that_are_fused_or_not_needed_are_not_computed_by_themselves() -> None:
    _, plan = planned()
    computed = [node.name for node in plan.nodes if node not in plan.constants]
    assert computed[:3] == ["x", "quantize_default", "constant_pad_nd_default"]
    assert "lookup_default" not in computed
    assert "conv2d_default_1" not in computed
    (group,) = [group for group in plan.groups.values() if group.stages]
    assert [group.anchor.name, group.last.name] == ["conv2d_default_1", "add_default"]
    assert plan.group(group.last) is group


def test_members_of_a_concat_are_computed_in_it() -> None:
    _, plan = planned()
    ((cat, concat),) = plan.in_place.concats.items()
    assert {node.name: part.share.first for node, part in plan.in_place.parts.items()} == {
        "conv2d_default": 0,
        "add_default": 8,
    }
    assert concat.home.cat is cat
    assert concat.in_place
    assert not concat.copied


def test_an_image_is_stored_as_the_layer_behind_its_padding_wants_it() -> None:
    _, plan = planned()
    assert {node.name: order for node, order in plan.orders.items()} == {"quantize_default": NHWC}
    ((pad, padding),) = plan.padding.items()
    assert padding == (0, 0, 2, 1)
    (layer,) = pad.users
    assert plan.padding_before(layer) == padding


def test_a_plan_does_not_change() -> None:
    _, plan = planned()
    with pytest.raises(FrozenInstanceError):
        plan.nodes = ()  # type: ignore[misc]  # which is what this test is about
    with pytest.raises(TypeError):
        plan.groups[plan.nodes[0]] = Group(plan.nodes[0], ())  # type: ignore[index]  # as above


@pytest.mark.parametrize(("hi", "wide"), [(127, False), (255, True)])
def test_inputs_of_few_bits_leave_room_for_large_weights(hi: int, wide: bool) -> None:
    g = IntegerGraph()
    q = g.call(qpc_ops.quantize.default, g.input(64, 6, 6), 0.02, 60, 0, hi, torch.uint8)
    weight = g.constant(torch.full((8, 64, 1, 1), 127, dtype=torch.int8))
    bias = g.constant(torch.zeros(8, dtype=torch.int32))
    multiplier = g.constant(torch.full((8,), 1e-3))
    window = ([1, 1], [0, 0], [1, 1], 1, 60, 4, 0, 255)
    gm = g.module(g.call(qpc_ops.conv2d.default, q, weight, bias, multiplier, *window))
    assert list(plan_graph(gm, 1, trait_table()).greatest.values()) == [hi]
    compiled = compile_graph(gm, "x86-64-avx2")
    types = {stored.type.dtype for stored in compiled._parts.weights.values()}
    assert ("int16" in types) == wide

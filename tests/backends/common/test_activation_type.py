"""One graph on unsigned grids, as one on signed grids: the same inputs, outputs and bits."""

from __future__ import annotations

import pytest
import torch
from torch.fx import GraphModule
from torch.utils._pytree import tree_leaves

pytest.importorskip("tvm_ffi", reason="Apache TVM is not installed")
from qpc.backends import reference
from qpc.backends.common.activation_type import with_activations
from qpc.backends.tvm.lowering.rules import trait_table
from qpc.calls import arguments, aten, qpc_ops
from qpc.shapes import concrete_shapes
from tests.generators import IntegerGraph, random_graph, random_inputs
from tests.signed import signed

pytestmark = pytest.mark.tvm


def changed(gm: GraphModule, dtype: torch.dtype = torch.int8) -> GraphModule:
    return with_activations(gm, 1, dtype, trait_table())


def assert_same_results(gm: GraphModule, dtype: torch.dtype = torch.int8, seed: int = 0) -> None:
    made = changed(gm, dtype)
    inputs = random_inputs(gm, 1, seed)
    found, wanted = (tree_leaves(reference.compile_graph(g)(*inputs)) for g in (made, gm))
    for got, right in zip(found, wanted, strict=True):
        assert got.dtype == right.dtype
        assert torch.equal(got, right)


def tables_between(gm: GraphModule) -> list[str]:
    """The nodes whose integers become others of the other type."""
    types = concrete_shapes(gm, 1)
    lookups = [n for n in gm.graph.nodes if n.target is qpc_ops.lookup.default]
    return [n.name for n in lookups if types[n].dtype is not types[arguments(n)["q"]].dtype]  # type: ignore[union-attr]  # tensors


@pytest.mark.parametrize("seed", range(6))
def test_a_random_graph_has_the_same_results(seed: int) -> None:
    assert_same_results(random_graph(seed), torch.int8, seed)
    assert_same_results(signed(random_graph(seed)), torch.uint8, seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(6, 200))
def test_many_random_graphs_have_the_same_results(seed: int) -> None:
    assert_same_results(random_graph(seed), torch.int8, seed)
    assert_same_results(signed(random_graph(seed)), torch.uint8, seed)


def test_inside_there_are_no_others_and_one_table_at_each_end() -> None:
    g = IntegerGraph()
    padded = g.call(aten.constant_pad_nd.default, g.image(3, 6, 6), [1, 1, 1, 1], 7)
    y = g.clamp(g.conv2d(padded, 8))
    gm = g.module(g.lookup(g.cat(y, y)), g.dequantize(y))
    made = changed(gm)
    assert len(tables_between(made)) == 2
    types = concrete_shapes(made, 1)
    calls = [n for n in made.graph.nodes if n.op == "call_function"]
    unsigned = [n for n in calls if types[n].dtype is torch.uint8]  # type: ignore[union-attr]  # tensors
    assert [n.name for n in unsigned] == [tables_between(made)[1]]
    assert_same_results(gm)


def test_a_graph_that_has_them_already_is_left_as_it_is() -> None:
    gm = random_graph(1)
    assert changed(gm, torch.uint8) is gm


def test_weights_are_no_activations() -> None:
    g = IntegerGraph()
    gm = g.module(g.conv2d(g.quantize(g.input(3, 5, 5)), 4))
    weights = [t for t in changed(gm)._buffers.values() if t is not None and t.ndim == 4]
    assert [t.dtype for t in weights] == [torch.int8]
    assert torch.equal(weights[0], gm.get_buffer("constant0"))


def test_operators_that_nobody_knows_get_what_they_had() -> None:
    g = IntegerGraph()
    x = g.clamp(g.quantize(g.input(3, 5, 5)))
    odd = g.call(aten.bitwise_and.Scalar, x, 85)
    gm = g.module(g.dequantize(g.clamp(odd)), g.call(aten._to_copy.default, x, dtype=torch.float32))
    assert len(tables_between(changed(gm))) == 2
    assert_same_results(gm)


def test_a_pad_of_what_is_no_integer_of_the_type_is_left_alone() -> None:
    g = IntegerGraph()
    x = g.quantize(g.input(3, 5, 5))
    gm = g.module(g.dequantize(g.call(aten.constant_pad_nd.default, x, [1, 1], 2.5)))
    assert_same_results(gm)

"""Operators of other packages, replaced by those that they are made of; no TVM is needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import getitem
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx import GraphModule

from qpc.backends.common.expand import expanded
from qpc.calls import aten
from qpc.errors import BackendError
from qpc.meta import info
from qpc.types import TensorType
from tests.generators import IntegerGraph, random_inputs


@torch.library.custom_op("expanded::tilted", mutates_args=())
def tilted(x: Tensor, weight: Tensor, power: int) -> Tensor:
    return x * weight.square() ** power


@tilted.register_fake
def _(x: Tensor, weight: Tensor, power: int) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("expanded::ends", mutates_args=())
def ends(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.amin(1), x.amax(1)


@ends.register_fake
def _(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape[:1]), x.new_empty(x.shape[:1])


@torch.library.custom_op("expanded::both", mutates_args=())
def both(parts: list[Tensor]) -> Tensor:
    return torch.cat(parts, 1)


@both.register_fake
def _(parts: list[Tensor]) -> Tensor:
    return torch.cat(parts, 1)


OPS = torch.ops.expanded
Functions = Mapping[Any, Callable[..., Any]]


def tilted_graph() -> GraphModule:
    g = IntegerGraph()
    weight = g.constant(torch.tensor([1.0, 2.0, -3.0]))
    return g.module(g.call(OPS.tilted.default, g.input(3), weight, 2))


def targets(gm: GraphModule) -> list[object]:
    return [node.target for node in gm.graph.nodes if node.op == "call_function"]


def test_a_graph_without_such_operators_stays_itself() -> None:
    gm = tilted_graph()
    assert expanded(gm, 2, {OPS.ends.default: torch.aminmax}) is gm


def test_what_depends_on_constants_alone_is_computed_once() -> None:
    gm = tilted_graph()
    made = expanded(gm, 2, {OPS.tilted.default: lambda x, w, n: x * w.square() ** n})
    assert targets(made) == [aten.mul.Tensor]
    inputs = random_inputs(gm, 2)
    assert torch.equal(made(*inputs), gm(*inputs))
    assert targets(gm) == [OPS.tilted.default], "the graph that was given stays as it is"


def test_new_nodes_know_what_they_yield() -> None:
    made = expanded(tilted_graph(), 5, {OPS.tilted.default: lambda x, w, n: x * w.square() ** n})
    (node,) = (node for node in made.graph.nodes if node.op == "call_function")
    found = info(node)
    assert (found.shape, found.dtype) == ((5, 3), torch.float32)


def test_tensors_of_the_function_itself_come_along() -> None:
    weights = torch.tensor([1.0, 16.0, 81.0])
    made = expanded(tilted_graph(), 2, {OPS.tilted.default: lambda x, w, n: x * weights})
    inputs = random_inputs(made, 2)
    assert torch.equal(made(*inputs), inputs[0] * weights)


def test_operators_may_be_made_of_others_that_are_made_of_more() -> None:
    functions: Functions = {
        OPS.tilted.default: lambda x, w, n: x * (OPS.ends(w.reshape(1, 3))[1] ** n),
        OPS.ends.default: lambda x: (x.amin(1), x.amax(1)),
    }
    made = expanded(tilted_graph(), 2, functions)
    inputs = random_inputs(made, 2)
    assert torch.equal(made(*inputs), inputs[0] * 4)


def test_one_of_several_results_is_picked() -> None:
    g = IntegerGraph()
    both_ends = g.call(OPS.ends.default, g.input(6))
    gm = g.module(g.call(getitem, both_ends, 0), g.call(getitem, both_ends, 1))
    made = expanded(gm, 2, {OPS.ends.default: lambda x: (x.amin(1), x.amax(1))})
    assert targets(made) == [aten.amin.default, aten.amax.default]
    inputs = random_inputs(gm, 2)
    assert all(map(torch.equal, made(*inputs), gm(*inputs)))


def test_lists_of_tensors_are_taken() -> None:
    g = IntegerGraph()
    x = g.input(3)
    gm = g.module(g.call(OPS.both.default, [x, x]))
    made = expanded(gm, 2, {OPS.both.default: lambda parts: torch.cat(parts, 1)})
    assert targets(made) == [aten.cat.default]


def test_functions_that_write_to_their_own_tensors_become_functional() -> None:
    def write(x: Tensor, w: Tensor, n: int) -> Tensor:
        y = x.clone()
        y *= w**4
        return y

    gm = tilted_graph()
    made = expanded(gm, 2, {OPS.tilted.default: write})
    inputs = random_inputs(gm, 2)
    assert torch.equal(made(*inputs), gm(*inputs))
    assert not any("_." in str(target) for target in targets(made))


@pytest.mark.parametrize(
    ("function", "wrong"),
    [
        (lambda x: x, r"failed with TypeError: .*positional argument"),
        (
            lambda x, w, n: x.sum(1),
            r"returns float32\[2\], the operator float32\[2, 3\]",
        ),
        (lambda x, w, n: x.double(), r"returns float64\[2, 3\], the operator float32\[2, 3\]"),
        (lambda x, w, n: (x, x), r"returns \(float32\[2, 3\], float32\[2, 3\]\), the operator"),
        (lambda x, w, n: 3, r"returns something that is no tensor, the operator float32"),
    ],
)
def test_a_function_that_does_something_else_is_named(
    function: Callable[..., Any], wrong: str
) -> None:
    pattern = rf"the decomposition of operator expanded\.tilted\.default {wrong}"
    with pytest.raises(BackendError, match=pattern) as caught:
        expanded(tilted_graph(), 2, {OPS.tilted.default: function})
    assert caught.value.node is not None
    assert caught.value.node.target is OPS.tilted.default


def test_arguments_that_are_not_tensors_are_refused() -> None:
    g = IntegerGraph()
    gm = g.module(g.call(OPS.both.default, g.call(aten.split.Tensor, g.input(4), 2, 1)))
    with pytest.raises(BackendError, match="cannot be decomposed: an argument is not one tensor"):
        expanded(gm, 2, {OPS.both.default: lambda parts: torch.cat(parts, 1)})


def test_types_are_those_at_the_batch_size() -> None:
    seen = []

    def function(x: Tensor, w: Tensor, n: int) -> Tensor:
        seen.append(TensorType(tuple(map(int, x.shape)), x.dtype))
        return x * w**4

    expanded(tilted_graph(), 7, {OPS.tilted.default: function})
    assert set(seen) == {TensorType((7, 3), torch.float32)}

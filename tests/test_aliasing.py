from __future__ import annotations

import operator

import pytest
import torch
from torch.fx import Graph, Node

from qpc.aliasing import aliased_inputs, functional_form, written_argument
from qpc.calls import aten, qpc_ops

graph = Graph()
X, Y = graph.placeholder("x"), graph.placeholder("y")


def call(target: object, *args: object, **kwargs: object) -> Node:
    return graph.call_function(target, args, kwargs)  # type: ignore[arg-type]  # arguments of fx


def test_in_place_operators_write_to_their_first_input() -> None:
    assert written_argument(call(aten.add_.Tensor, X, Y)) is X
    assert written_argument(call(aten.add_.Tensor, self=X, other=Y)) is X


def test_out_variants_write_to_out() -> None:
    assert written_argument(call(aten.add.out, X, Y, out=Y)) is Y


def test_functional_operators_write_nothing() -> None:
    assert written_argument(call(aten.add.Tensor, X, Y)) is None
    assert written_argument(call(qpc_ops.lookup.default, X, Y)) is None
    assert written_argument(call(operator.getitem, X, 0)) is None
    assert written_argument(X) is None


def test_views_share_memory_with_their_input() -> None:
    assert aliased_inputs(call(aten.view.default, X, [1])) == [X]
    assert aliased_inputs(call(aten.relu_.default, X)) == [X]
    assert aliased_inputs(call(aten.split.Tensor, X, 1)) == [X]
    assert aliased_inputs(call(operator.getitem, Y, 0)) == [Y]


def test_operators_that_compute_share_nothing() -> None:
    assert aliased_inputs(call(aten.add.Tensor, X, Y)) == []
    assert aliased_inputs(X) == []


def test_dropout_may_return_its_input() -> None:
    assert aliased_inputs(call(aten.dropout.default, X, 0.5, False)) == [X]


@pytest.mark.parametrize(
    ("in_place", "functional"),
    [
        (aten.relu_.default, aten.relu.default),
        (aten.add_.Tensor, aten.add.Tensor),
        (aten.clamp_.default, aten.clamp.default),
        (aten.relu.default, None),
        (aten.__and__.Tensor, None),
    ],
)
def test_functional_forms(
    in_place: torch._ops.OpOverload, functional: torch._ops.OpOverload | None
) -> None:
    assert functional_form(in_place) is functional

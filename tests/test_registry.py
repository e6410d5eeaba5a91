from __future__ import annotations

import operator

import pytest
import torch
from torch.fx import Graph, Node

from qpc import registry
from qpc.calls import aten, is_shape_arithmetic, qpc_ops
from qpc.errors import ConfigError
from qpc.ops.convolution import Conv2d
from qpc.ops.pointwise import POINTWISE
from qpc.registry import OpSpec, Role, op_name, register_operator, registered, role_of, spec_of


def call(target: object) -> Node:
    graph = Graph()
    return graph.call_function(target, (graph.placeholder("x"),))  # type: ignore[arg-type]  # an argument of fx


def test_known_operators_have_a_name_a_role_and_a_view() -> None:
    spec = spec_of(call(aten.conv2d.default))
    assert spec is not None
    assert (spec.name, spec.view) == ("conv2d", Conv2d)
    assert role_of(call(aten.conv2d.default)) is Role.COMPUTE
    assert spec in registered()


def test_unknown_operators_have_no_spec_but_a_name() -> None:
    node = call(aten.digamma.default)
    assert spec_of(node) is None
    assert op_name(node) == "digamma"


def test_every_node_has_a_name() -> None:
    graph = Graph()
    assert op_name(graph.placeholder("x")) == "placeholder"
    assert op_name(call(operator.getitem)) == "getitem"
    assert op_name(call(qpc_ops.conv2d.default)) == "conv2d"
    assert op_name(call(aten.permute.default)) == "permute"


def test_size_arithmetic_is_recognized() -> None:
    assert is_shape_arithmetic(call(operator.mul))
    assert not is_shape_arithmetic(call(aten.mul.Tensor))
    assert spec_of(call(operator.mul)) is None


def test_an_operator_is_registered_once() -> None:
    with pytest.raises(
        ValueError, match=r"^operator aten\.relu\.default is registered already as 'relu'$"
    ):
        register_operator(OpSpec(aten.relu.default, "relu"))


def test_packages_may_register_operators(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_SPECS", dict(registry._SPECS))
    spec = register_operator(OpSpec(torch.ops.aten.lgamma.default, quantization=POINTWISE))
    assert spec_of(call(aten.lgamma.default)) is spec
    assert registered()[-1] is spec


def test_every_view_of_a_spec_matches_its_operator() -> None:
    for spec in registered():
        assert spec.view is None or spec.target in spec.view.targets


def test_what_is_no_record_of_an_operator_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"spec must be a qpc\.OpSpec"):
        register_operator(3)  # type: ignore[arg-type]  # the mistake on purpose

"""Operators of other packages in ONNX models, by public names only."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from qpc.calls import qpc_ops
from qpc.errors import BackendError, UnsupportedOpError
from qpc.exporting import onnx as onnx_backend
from qpc.exporting.onnx import custom
from tests.small_models import graph_of

pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")


@torch.library.custom_op("exported::halved", mutates_args=())
def halved(x: Tensor, times: int) -> Tensor:
    return x * 0.5**times


@halved.register_fake
def _(x: Tensor, times: int) -> Tensor:
    return torch.empty_like(x)


OPERATOR = torch.ops.exported.halved.default
PACKET: Any = torch.ops.exported.halved  # of overloads


@pytest.fixture(autouse=True)
def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers does not stay."""
    monkeypatch.setattr(custom, "_registered", {})


def graph() -> GraphModule:
    return graph_of(lambda g, x: g.call_function(OPERATOR, (x, 3)), 4)


def written(to: onnx_backend.Exporter, node: Node) -> str:
    factor = torch.tensor(0.5 ** int(str(node.args[1])))
    return to.emit("Mul", [to.value(node, "x"), to.constant(factor.numpy())])


def test_an_operator_of_another_package_is_exported_as_it_registered() -> None:
    onnx_backend.register_export(OPERATOR, written)
    gm = graph()
    assert [onnx_backend.supports(node) for node in gm.graph.nodes] == [None] * 3
    session = runtime.InferenceSession(onnx_backend.to_qdq(gm, 2).SerializeToString())
    x = torch.randn(2, 4)
    (found,) = session.run(None, {"x": x.numpy()})
    assert torch.equal(torch.from_numpy(found), gm(x))


def test_an_operator_that_nobody_registered_is_refused_with_the_way_to_do_it() -> None:
    gm = graph()
    reason = "no ONNX form for exported.halved.default"
    assert [onnx_backend.supports(node) for node in gm.graph.nodes] == [None, reason, None]
    with pytest.raises(UnsupportedOpError, match=r"no ONNX form for exported\.halved") as caught:
        onnx_backend.to_qdq(gm)
    assert caught.value.fix == "register one with qpc.exporting.onnx.register_export"


@pytest.mark.parametrize(
    ("rule", "wrong"),
    [
        (lambda to, node: node.missing, r"halved\.default failed with AttributeError"),
        (lambda to, node: None, r"halved\.default returned NoneType, not the name of its result"),
    ],
)
def test_a_form_that_is_wrong_is_named(rule: Any, wrong: str) -> None:
    onnx_backend.register_export(OPERATOR, rule)
    with pytest.raises(BackendError, match=wrong) as caught:
        onnx_backend.to_qdq(graph())
    assert caught.value.node is not None


def test_an_operator_of_another_package_is_registered_once() -> None:
    onnx_backend.register_export(OPERATOR, written)
    with pytest.raises(BackendError, match=r"an ONNX form of operator .* is registered already"):
        onnx_backend.register_export(OPERATOR, written)
    with pytest.raises(BackendError, match="is no operator overload"):
        onnx_backend.register_export(PACKET, written)
    with pytest.raises(BackendError, match="is QPC's own operator, and has an ONNX form already"):
        onnx_backend.register_export(qpc_ops.add.default, written)

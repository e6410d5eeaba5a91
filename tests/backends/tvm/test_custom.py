"""Operators of other packages, from definition to machine code, by public names only."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx import Node

from qpc.backends.tvm.backend import BACKEND
from qpc.calls import aten, qpc_ops
from qpc.errors import BackendError, UnsupportedOpError
from qpc.shapes import infer_shapes
from tests.backends.tvm.checking import assert_same_bits
from tests.generators import IntegerGraph

tvm = pytest.importorskip("qpc.backends.tvm", reason="Apache TVM is not installed")
pytest.importorskip("tvm", reason="Apache TVM is not installed")
pytestmark = pytest.mark.tvm


@torch.library.custom_op("outside::mirrored", mutates_args=())
def mirrored(q: Tensor, around: int) -> Tensor:
    """The distance from a point of the grid, as an operator of uint8."""
    return (q.to(torch.int32) - around).abs().to(torch.uint8)


@mirrored.register_fake
def _(q: Tensor, around: int) -> Tensor:
    return torch.empty_like(q)


@torch.library.custom_op("outside::weighted", mutates_args=())
def weighted(q: Tensor, weight: Tensor, extra: Tensor | None = None) -> Tensor:
    """Half the product with an uint8 for each channel, of images."""
    product = q.to(torch.int32) * weight.to(torch.int32)[:, None, None]
    return (product >> 8).to(torch.uint8)


@weighted.register_fake
def _(q: Tensor, weight: Tensor, extra: Tensor | None = None) -> Tensor:
    return torch.empty_like(q)


@torch.library.custom_op("outside::gelu", mutates_args=())
def gelu(x: Tensor, width: float) -> Tensor:
    """Not PyTorch's function of this name."""
    return x * torch.sigmoid(x * width)


@gelu.register_fake
def _(x: Tensor, width: float) -> Tensor:
    return torch.empty_like(x)


OUTSIDE = torch.ops.outside


@pytest.fixture(autouse=True)
def forget(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers does not stay."""
    from qpc.backends.tvm import custom

    monkeypatch.setattr(custom, "_kernels", {})
    monkeypatch.setattr(custom, "_decompositions", {})


def mirrored_kernel(request: Any) -> Any:
    from tvm import te, tirx

    (x,) = (te.placeholder(t.shape, "uint8", name="x") for t in request.inputs.values())
    around = int(request.arguments["around"])

    def distance(*at: Any) -> Any:
        apart = tirx.Cast("int32", x[at]) - around
        return tirx.Cast("uint8", tirx.abs(apart))

    return te.create_prim_func([x, te.compute(request.output.shape, distance, name="y")])


def weighted_kernel(request: Any) -> Any:
    from tvm import te, tirx

    (x,) = (te.placeholder(t.shape, "uint8", name="x") for t in request.inputs.values())
    weight = request.constants["weight"].numpy()
    w = te.placeholder(weight.shape, "uint8", name="w")

    def product(n: Any, h: Any, v: Any, c: Any) -> Any:
        wide = tirx.Cast("int32", x[n, h, v, c]) * tirx.Cast("int32", w[c])
        return tirx.Cast("uint8", wide >> 8)

    made = te.create_prim_func([x, w, te.compute(request.output.shape, product, name="y")])
    return tvm.CustomKernel(made, (weight,))


def mirrored_graph() -> tuple[IntegerGraph, Node]:
    g = IntegerGraph()
    q = g.conv2d(g.quantize(g.input(5, 6, 7)), 8, (3, 3), padding=(1, 1))
    return g, g.call(OUTSIDE.mirrored.default, q, 100)


@pytest.mark.every(3)
@pytest.mark.parametrize("order", ["LOGICAL", "IMAGES", "KEPT"])
def test_a_kernel_of_another_package_gives_the_bits_of_the_operator(order: str) -> None:
    tvm.register_kernel(
        OUTSIDE.mirrored.default, mirrored_kernel, order=getattr(tvm.MemoryOrder, order)
    )
    g, y = mirrored_graph()
    gm = g.module(g.conv2d(y, 4), g.linear(g.reshape(y, -1, 8 * 6 * 7), 3))
    compiled = assert_same_bits(gm, batch_sizes=(1, 3), threads=2)
    used = [use for use in compiled.report.kernels if "outside_mirrored" in use.kernel]
    assert [use.nodes for use in used] == [("mirrored_default",)]
    moved = "transpose" in str([step.kernel for step in compiled._parts.code.entries[1].steps[1:4]])
    assert moved == (order == "LOGICAL")


def test_a_kernel_is_built_of_constants() -> None:
    tvm.register_kernel(
        OUTSIDE.weighted.default,
        weighted_kernel,
        order=tvm.MemoryOrder.IMAGES,
        constants=["weight"],
    )
    g = IntegerGraph()
    q = g.quantize(g.input(5, 6, 7))
    weights = (torch.arange(5, dtype=torch.uint8) * n for n in (30, 50))
    y, z = (g.call(OUTSIDE.weighted.default, q, g.constant(weight)) for weight in weights)
    compiled = assert_same_bits(g.module(y, z), batch_sizes=(1, 2))
    first, second = (u.kernel for u in compiled.report.kernels if "weighted" in u.kernel)
    assert first == second, "layers share machine code, but for their params"


def mirrored_by_table(q: Tensor, around: int) -> Tensor:
    table = (torch.arange(256, dtype=torch.int32) - around).abs().to(torch.uint8)
    return qpc_ops.lookup(q, table)  # type: ignore[no-any-return]  # operators have no types


def test_a_decomposition_into_integer_operators_runs_in_the_kernel_of_a_layer() -> None:
    tvm.register_decomposition(OUTSIDE.mirrored.default, mirrored_by_table)
    g, y = mirrored_graph()
    compiled = assert_same_bits(g.module(y), batch_sizes=(1, 3))
    (fused,) = compiled.report.fused
    assert "conv2d" in fused.kernel
    assert len(fused.nodes) == 2


def test_a_decomposition_into_float_operators() -> None:
    tvm.register_decomposition(OUTSIDE.gelu.default, lambda x, width: x * (x * width).sigmoid())
    g = IntegerGraph()
    gm = g.module(g.call(OUTSIDE.gelu.default, g.input(9), 1.7))
    x = torch.randn(2, 9)
    torch.testing.assert_close(tvm.compile_graph(gm, batch_sizes=(2,))(x), gm(x))


def test_an_operator_is_not_taken_for_pytorch_s_of_the_same_name() -> None:
    g = IntegerGraph()
    gm = g.module(g.call(OUTSIDE.gelu.default, g.input(9), 1.7))
    with pytest.raises(UnsupportedOpError, match=r"no rule for operator outside\.gelu\.default"):
        tvm.compile_graph(gm)


def test_what_is_registered_is_supported() -> None:
    g, y = mirrored_graph()
    infer_shapes(gm := g.module(y))
    (node,) = (n for n in gm.graph.nodes if n.target is OUTSIDE.mirrored.default)
    reason = "the TVM backend has no rule for operator outside.mirrored.default"
    assert BACKEND.supports(node) == reason
    tvm.register_kernel(OUTSIDE.mirrored.default, mirrored_kernel)
    assert BACKEND.supports(node) is None


# --- what is refused ------------------------------------------------------------------------------


def test_an_operator_is_registered_once() -> None:
    tvm.register_kernel(OUTSIDE.mirrored.default, mirrored_kernel)
    for register in (tvm.register_kernel, tvm.register_decomposition):
        with pytest.raises(
            BackendError, match=r"for operator outside\.mirrored\.default is registered already"
        ):
            register(OUTSIDE.mirrored.default, mirrored_kernel)


def test_only_overloads_of_others_are_registered() -> None:
    with pytest.raises(BackendError, match="is no operator overload") as caught:
        tvm.register_kernel(OUTSIDE.mirrored, mirrored_kernel)
    assert caught.value.fix == "name the overload, as in torch.ops.mylib.square.default"
    with pytest.raises(BackendError, match=r"qpc\.add\.default is QPC's own operator"):
        tvm.register_decomposition(qpc_ops.add.default, mirrored_by_table)


def test_a_kernel_is_registered_with_what_can_be() -> None:
    with pytest.raises(BackendError, match="has no argument 'table'") as caught:
        tvm.register_kernel(OUTSIDE.mirrored.default, mirrored_kernel, constants=["table"])
    assert caught.value.fix == "name constants among q, around"
    with pytest.raises(BackendError, match="must know the order of axes in memory"):
        tvm.register_kernel(OUTSIDE.mirrored.default, mirrored_kernel, order=tvm.MemoryOrder.ANY)


def refused(build: Any, **how: Any) -> str:
    """What compiling a graph with the operator says if `build` makes its kernel."""
    tvm.register_kernel(OUTSIDE.mirrored.default, build, **how)
    g, y = mirrored_graph()
    with pytest.raises(BackendError) as caught:
        tvm.compile_graph(g.module(y))
    assert caught.value.node is not None
    assert caught.value.node.target is OUTSIDE.mirrored.default
    what: str = caught.value.what
    return what


def test_a_builder_that_fails_is_named() -> None:
    assert refused(lambda request: request.constants["table"]) == (
        "the kernel builder of operator outside.mirrored.default failed with KeyError: 'table'"
    )


def test_a_builder_returns_a_function() -> None:
    assert refused(lambda request: None) == (
        "the kernel builder of operator outside.mirrored.default returned NoneType, not a function"
        " of TIR"
    )


def test_a_kernel_takes_what_the_call_gives() -> None:
    def build(request: Any) -> Any:
        from tvm import te

        x = te.placeholder((4, 4), "int8", name="x")
        return te.create_prim_func([x, te.compute((4, 4), lambda *at: x[at] + x[at], name="y")])

    assert refused(build) == (
        "the kernel of operator outside.mirrored.default takes int8[4, 4], int8[4, 4], but the call"
        " is of uint8[1, 8, 6, 7], uint8[1, 8, 6, 7]"
    )


@torch.library.custom_op("outside::joined", mutates_args=())
def joined(parts: list[Tensor], rows: bool) -> Tensor:
    return torch.cat(parts, -1).amax(-1) if rows else torch.cat(parts, -1)


@joined.register_fake
def _(parts: list[Tensor], rows: bool) -> Tensor:
    whole = torch.cat(parts, -1)
    return whole.new_empty(whole.shape[:-1]) if rows else whole


def test_lists_of_tensors_are_for_decompositions() -> None:
    tvm.register_kernel(OUTSIDE.joined.default, mirrored_kernel)
    g = IntegerGraph()
    q = g.quantize(g.input(5, 4))
    y = g.call(OUTSIDE.joined.default, [q, q], False)
    with pytest.raises(
        BackendError, match=r"argument 'parts' of .* is a list of tensors"
    ) as caught:
        tvm.compile_graph(g.module(y))
    assert caught.value.fix is not None
    assert "register a decomposition" in caught.value.fix


def test_tensors_of_unequally_many_axes_have_no_order_in_common() -> None:
    tvm.register_kernel(OUTSIDE.weighted.default, weighted_kernel, order=tvm.MemoryOrder.KEPT)
    g = IntegerGraph()
    weight = g.constant(torch.arange(5, dtype=torch.uint8))
    gm = g.module(g.call(OUTSIDE.weighted.default, g.quantize(g.input(5, 6, 7)), weight))
    with pytest.raises(BackendError, match="its tensors have not equally many of them") as caught:
        tvm.compile_graph(gm)
    assert caught.value.fix == "register it with order=MemoryOrder.LOGICAL"


def test_what_the_model_computes_is_no_constant() -> None:
    tvm.register_kernel(OUTSIDE.weighted.default, weighted_kernel, constants=["weight"])
    g = IntegerGraph()
    q = g.quantize(g.input(5, 6, 7))
    weight = g.call(aten.amax.default, q, [0, 2, 3])
    gm = g.module(g.call(OUTSIDE.weighted.default, q, weight))
    with pytest.raises(BackendError, match=r"argument 'weight' of .* must be a parameter or buff"):
        tvm.compile_graph(gm)


def test_tuning_is_refused_before_anything_is_compiled() -> None:
    tvm.register_kernel(OUTSIDE.mirrored.default, mirrored_kernel)
    g, y = mirrored_graph()
    with pytest.raises(BackendError, match=r"no machine code for outside\.mirrored") as caught:
        tvm.compile_graph(g.module(y), tune=5)
    assert caught.value.fix == "compile without tune="

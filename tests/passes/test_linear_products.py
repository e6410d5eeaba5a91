"""Matrix products of a value and a parameter become linear layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import qpc
from qpc.calls import aten
from qpc.passes import LinearProducts
from qpc.testing import check_pass, traced
from tests.small_models import nodes_of

X = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(0))


class Product(nn.Module):
    """A function of a value and of parameters."""

    def __init__(self, function: Callable[..., Tensor], **parameters: Tensor) -> None:
        super().__init__()
        self.function = function
        for name, value in parameters.items():
            self.register_parameter(name, nn.Parameter(value))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, **dict(self.named_parameters()))


def weight(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def test_a_product_becomes_a_layer_by_the_transpose() -> None:
    check_pass(
        LinearProducts(),
        traced(Product(lambda x, w: x @ w, w=weight(8, 6)), X),
        X,
        before="""
            graph:
              %x: f32[N, 5, 8] = input
              %matmul: f32[N, 5, 6] = aten.matmul(%x, @w)
              return %matmul
        """,
        after="""
            graph:
              %x: f32[N, 5, 8] = input
              %permute_default: f32[6, 8] = aten.permute(@w, [1, 0])
              %linear_default: f32[N, 5, 6] = aten.linear(%x, %permute_default, None)
              return %linear_default
        """,
    )


LAYERS: dict[str, tuple[Callable[..., Tensor], dict[str, Tensor]]] = {
    "by the transpose": (lambda x, w: x @ w.t(), {"w": weight(6, 8)}),
    "by a parameter that is broadcast": (lambda x, w: x @ w, {"w": weight(1, 8, 6)}),
    "by a computed one": (lambda x, w: x @ w.softmax(0), {"w": weight(8, 6)}),
    "parameter first": (lambda x, w: w @ x, {"w": weight(7, 5)}),
    "rows": (lambda x, w: torch.mm(x.flatten(1), w), {"w": weight(40, 6)}),
    "with a bias": (
        lambda x, w, b: torch.addmm(b, x.flatten(1), w),
        {"w": weight(40, 6), "b": weight(6)},
    ),
    "with one bias for all": (
        lambda x, w, b: torch.addmm(b, x.flatten(1), w),
        {"w": weight(40, 6), "b": weight(1)},
    ),
    "added to a value": (
        lambda x, w: torch.addmm(x[:, :1, :6].flatten(1), x.flatten(1), w),
        {"w": weight(40, 6)},
    ),
    "several columns": (
        lambda x, w: torch.einsum("ibh,hnd->ibnd", x.transpose(0, 1), w),
        {"w": weight(8, 2, 3)},
    ),
    "a sum over several axes": (
        lambda x, w: torch.einsum("bnid,hnd->bhi", x.reshape(-1, 2, 5, 4), w),
        {"w": weight(6, 2, 4)},
    ),
    "dots": (lambda x, w: torch.einsum("...c,cd->d...", x, w), {"w": weight(8, 6)}),
}


@pytest.mark.parametrize("name", LAYERS)
def test_every_way_to_write_a_layer_becomes_one(name: str) -> None:
    forward, parameters = LAYERS[name]
    gm = traced(Product(forward, **parameters), X)
    after = check_pass(LinearProducts(), gm, X)
    assert len(nodes_of(after, aten.linear.default)) == 1
    added = name in ("added to a value", "with one bias for all")
    assert len(nodes_of(after, aten.add.Tensor)) == added


def test_declines_another_matrix_at_each_place() -> None:
    def forward(x: Tensor, w: Tensor) -> Tensor:
        return torch.einsum("bind,dnh->binh", x.reshape(-1, 5, 2, 4), w)

    reason = "einsum: it multiplies by another matrix at each place along an axis"
    check_pass(
        LinearProducts(), traced(Product(forward, w=weight(4, 2, 6)), X), X, declines=[reason]
    )


def test_declines_a_sum_over_one_operand_alone() -> None:
    gm = traced(Product(lambda x, w: torch.einsum("bic,cd->bd", x, w), w=weight(8, 6)), X)
    reason = "einsum: it sums one of its operands alone"
    check_pass(LinearProducts(), gm, X, declines=[reason])


def test_declines_a_sum_over_an_axis_that_is_broadcast() -> None:
    gm = traced(Product(lambda x, w: torch.einsum("bic,cd->bid", x, w), w=weight(1, 6)), X)
    reason = "einsum: it sums over an axis that grows with the batch, or is broadcast"
    check_pass(LinearProducts(), gm, X, declines=[reason])


def test_declines_two_axes_that_grow_with_the_batch() -> None:
    def forward(x: Tensor, w: Tensor) -> Tensor:
        return (x.flatten(1) @ x.flatten(1).t()).reshape(x.shape[0], x.shape[0], 1) @ w

    reason = "matmul_1: two of its axes grow with the batch"
    check_pass(LinearProducts(), traced(Product(forward, w=weight(1, 6)), X), X, declines=[reason])


@pytest.mark.parametrize(
    "forward",
    [
        lambda x, w: x @ x.transpose(1, 2) + w.sum(),
        lambda x, w: torch.einsum("bi,jk->bijk", x[..., 0], w),
        lambda x, w: torch.addmm(x[0, :, :6], x[1], w, beta=2.0),
        lambda x, w: x @ w[:, 0],
        lambda x, w: torch.einsum("bic,cd,bic->bid", x, w, x),
        lambda x, w: torch.einsum("bic,cd", x, w),
        lambda x, w: torch.einsum("bii,id->bd", x[..., :5], w[:5]),
    ],
)
def test_what_is_no_layer_is_left_in_silence(forward: Any) -> None:
    check_pass(LinearProducts(), traced(Product(forward, w=weight(8, 6)), X), X, exact=True)


def test_they_are_quantized() -> None:
    def forward(x: Tensor, w: Tensor, v: Tensor) -> Tensor:
        hidden = torch.einsum("bth,hnd->btnd", x, w).relu()
        return torch.einsum("btnd,hnd->bth", hidden, v)

    gm = traced(Product(forward, w=weight(8, 2, 6), v=weight(8, 2, 6)), X)
    quantized = qpc.quantize(gm, [X])
    targets = [str(n.target) for n in quantized.graph.nodes if n.op == "call_function"]
    assert not any("einsum" in target for target in targets)
    assert [t for t in targets if "linear" in t] == [
        "qpc.linear.default",
        "qpc.linear_float.default",
    ]

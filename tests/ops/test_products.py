"""In products, channels along equal letters go together, and end where a letter is summed over."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from qpc.ops.products import _spelled_out
from tests.channels.channel_labels import Forward, every, flowed, reasons, seen, token_graph

PRODUCTS: dict[str, tuple[Forward, tuple[int | None, str]]] = {
    "with a parameter": (lambda m, x: m.a(x) @ m.w, (2, "ef")),
    "with a parameter in front": (lambda m, x: m.v @ m.a(x), (2, "abcd")),
    "with a transposed parameter": (lambda m, x: m.a(x) @ m.w.t().t(), (2, "ef")),
    "inner": (lambda m, x: m.a(x) @ m.b(x).mT, (None, ".")),
    "over tokens": (lambda m, x: (x @ x.mT) @ m.a(x), (2, "abcd")),
    "einsum with a parameter": (lambda m, x: torch.einsum("ntc,cd->ntd", m.a(x), m.w), (2, "ef")),
    "einsum with dots": (lambda m, x: torch.einsum("...c,cd->d...", m.a(x), m.w), (0, "ef")),
    "einsum of one": (lambda m, x: torch.einsum("ntc->nc", m.a(x)), (1, "abcd")),
    "with a bias": (lambda m, x: torch.addmm(m.g, m.a(x)[:, 0], m.w), (1, "ef")),
    "batched and added": (lambda m, x: torch.baddbmm(m.a(x), x @ x.mT, m.b(x)), (2, "abcd")),
    "attention": (lambda m, x: F.scaled_dot_product_attention(m.b(x), m.b(x), m.a(x)), (2, "abcd")),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_channels_of_products(name: str) -> None:
    function, (axis, expected) = PRODUCTS[name]
    parts = {"w": torch.randn(4, 2), "v": torch.randn(3, 3), "g": torch.randn(2)}
    gm = token_graph(function, b=nn.Linear(5, 4), **parts)
    found = every(gm)[axis]
    assert len(found) == len(expected)
    assert found.islower() == expected.islower(), "pinned, or none"


def test_products_have_the_channels_of_all_axes_that_are_left() -> None:
    gm = token_graph(
        lambda m, x: torch.einsum("ni,nj->nij", m.a(x).mean(1), m.b(x).mean(1)), b=nn.Linear(5, 4)
    )
    assert every(gm) == {1: "abcd", 2: "efgh"}


def test_the_summed_channels_of_both_operands_go_together() -> None:
    gm = token_graph(lambda m, x: m.a(x) @ m.b(x).mT, b=nn.Linear(5, 4))
    flow = flowed(gm)
    made = [
        flow.atoms.find(flow.axes[name, 0].labels).tolist() for name in ("a.weight", "b.weight")
    ]
    assert made == [[0, 1, 2, 3]] * 2


def test_keys_are_shared_by_groups_of_queries() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        q, k, v = (y.unflatten(2, (-1, 2)).transpose(1, 2) for y in (m.a(x), m.k(x), m.v(x)))
        return F.scaled_dot_product_attention(q, k, v, enable_gqa=True)

    gm = token_graph(forward, k=nn.Linear(5, 2), v=nn.Linear(5, 2))
    assert seen(gm)[0] == 3
    flow = flowed(gm)
    assert flow.atoms.find(flow.axes["k.weight", 0].labels).tolist() == [0, 1]


STAY: dict[str, tuple[Forward, str]] = {
    "outer, in one axis": (
        lambda m, x: torch.einsum("ni,nj->nij", m.a(x).mean(1), m.b(x).mean(1)).flatten(1),
        "reshape of reshape_default joins two axes with channels",
    ),
    "three": (
        lambda m, x: torch.einsum("ntc,c,c->ntc", m.a(x), m.g, m.g),
        "einsum of einsum is not understood",
    ),
    "diagonal": (
        lambda m, x: torch.einsum("ntt->nt", m.a(x)[:, :, :3]),
        "einsum of einsum is not understood",
    ),
    "no arrow": (
        lambda m, x: torch.einsum("ntc,c", m.a(x), m.g),
        "einsum of einsum is not understood",
    ),
    "a vector": (lambda m, x: m.a(x) @ m.g, "matmul of matmul is not understood"),
    "the input": (
        lambda m, x: m.a(x)[:, :, :3] @ x,
        "matmul of matmul meets a tensor whose size is fixed",
    ),
}


@pytest.mark.parametrize("name", STAY)
def test_products_that_pin_say_why(name: str) -> None:
    function, reason = STAY[name]
    assert reason in reasons(token_graph(function, b=nn.Linear(5, 4), g=torch.randn(4)))


@pytest.mark.parametrize(
    ("equation", "ranks", "expected"),
    [
        ("ij, jk -> ik", (2, 2), "ij,jk->ik"),
        ("...i,ji->...j", (3, 2), "bai,ji->baj"),
        ("...i,...i->...", (3, 2), "cbi,bi->cb"),
    ],
)
def test_dots_stand_for_axes_counted_from_the_last(
    equation: str, ranks: tuple[int, ...], expected: str
) -> None:
    spelled = _spelled_out(equation, ranks)
    letters = dict(zip(spelled, expected, strict=True))
    assert "".join(letters[x] for x in spelled) == expected

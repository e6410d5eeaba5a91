"""Conformance set: values that have channels on several axes, such as where tokens are mixed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.pruning.cases import Built, case, cases, heads_of, images, merged, tokens, weight

# --- tokens ---------------------------------------------------------------------------------------


def convolutions(m: Any, y: Tensor) -> Any:
    return m.c2(F.gelu(m.c1(y)))


def products(m: Any, y: Tensor) -> Any:
    return m.w2 @ F.gelu(m.w1 @ y)


def norms(m: Any, y: Tensor) -> Any:
    hidden = m.p(m.b(m.n(m.t1(y.transpose(1, 2)))))
    return m.t2(hidden).transpose(1, 2)


def parameters(m: Any, y: Tensor) -> Any:
    hidden = m.t1(y.transpose(1, 2)) * m.scale + m.table + m.column
    return m.t2(hidden.relu()).transpose(1, 2)


def pieces(m: Any, y: Tensor) -> Any:
    p, q = m.t1(y.transpose(1, 2)).split([4, 6], -1)
    hidden = torch.cat([p.sigmoid(), q.tanh()], -1).flip(-1).roll(2, -1)
    return m.t2(hidden).transpose(1, 2)


def gates(m: Any, y: Tensor) -> Any:
    hidden = m.t1(y.transpose(1, 2))
    hidden = hidden * m.g(hidden.mean(1))[:, None] * m.e(hidden.mean(2))[:, :, None]
    return m.t2(hidden).transpose(1, 2)


@cases({f.__name__: f for f in (convolutions, products, norms, parameters, pieces, gates)})
def tokens_mixed_with(function: Callable[[Any, Tensor], Any]) -> Built:
    return tokens(
        lambda m, x: m.z((y := m.a(x)) + function(m, y)),
        t1=nn.Linear(6, 10),
        t2=nn.Linear(10, 6),
        c1=nn.Conv1d(6, 10, 1),
        c2=nn.Conv1d(10, 6, 1),
        w1=weight(10, 6),
        w2=weight(6, 10),
        n=nn.LayerNorm(10),
        b=nn.BatchNorm1d(8),
        p=nn.PReLU(8),
        scale=weight(10),
        table=weight(8, 10),
        column=weight(8, 1),
        g=nn.Linear(10, 10),
        e=nn.Linear(8, 8),
    )


@case
def tokens_mixed_by_one_layer() -> Built:
    def forward(m: Any, x: Tensor) -> Any:
        y = m.a(x)
        return m.z(y + m.scale * m.t(y.transpose(1, 2)).transpose(1, 2))

    return tokens(forward, t=nn.Linear(6, 6), scale=weight(8))


@case
def tokens_mixed_without_a_residual() -> Built:
    def forward(m: Any, x: Tensor) -> Any:
        return m.z(m.t2(m.t1(m.a(x).transpose(1, 2)).relu()).transpose(1, 2)).mean(1)

    return tokens(forward, t1=nn.Linear(6, 10), t2=nn.Linear(10, 4))


@case
def tokens_mixed_and_flattened() -> Built:
    return tokens(
        lambda m, x: m.z(m.t(m.a(x).transpose(1, 2)).relu().flatten(1)),
        t=nn.Linear(6, 10),
        z=nn.Linear(80, 2),
    )


@case
def rows_and_columns_mixed() -> Built:
    def forward(m: Any, x: Tensor) -> Any:
        y = m.a(x)
        y = y + m.w2(F.gelu(m.w1(y)))
        return m.z(y + m.h2(F.gelu(m.h1(y.transpose(2, 3)))).transpose(2, 3))

    layers = {"w1": nn.Linear(8, 5), "w2": nn.Linear(5, 8)}
    return images(forward, h1=nn.Linear(8, 7), h2=nn.Linear(7, 8), **layers)


# --- attention and experts ------------------------------------------------------------------------


@case
def attention_by_queries_that_are_parameters() -> Built:
    def forward(m: Any, x: Tensor) -> Any:
        y, q = m.a(x), m.queries.expand(x.shape[0], -1, -1)
        return m.z(F.scaled_dot_product_attention(q, m.k(y), m.v(y)))

    return tokens(forward, queries=weight(1, 3, 8), k=nn.Linear(8, 8), v=nn.Linear(8, 8))


@case
def attention_with_relative_positions() -> Built:
    def forward(m: Any, x: Tensor) -> Any:
        y = m.a(x)
        q, k, v = (heads_of(part(y), 2) for part in (m.q, m.k, m.v))
        scores = q @ k.transpose(-2, -1) + torch.einsum("bhid,ijd->bhij", q, m.relative)
        return m.z(y + m.o(merged(scores.softmax(-1) @ v)))

    parts = {name: nn.Linear(8, 8) for name in "qkvo"}
    return tokens(forward, relative=weight(6, 6, 4), **parts)


@case
def attention_over_fewer_keys() -> Built:
    def forward(m: Any, x: Tensor) -> Any:
        y = m.a(x)
        k, v = (m.e(part(y).transpose(1, 2)).transpose(1, 2) for part in (m.k, m.v))
        return m.z(y + m.o((m.q(y) @ k.transpose(1, 2)).softmax(-1) @ v))

    parts = {name: nn.Linear(8, 8) for name in "qkvo"}
    return tokens(forward, e=nn.Linear(6, 4), **parts)


def experts_by_einsum(m: Any, x: Tensor) -> Any:
    hidden = F.relu(torch.einsum("btc,gco->btgo", m.a(x), m.w1))
    return m.z(torch.einsum("btgo,goc->btc", hidden, m.w2))


def experts_by_products(m: Any, x: Tensor) -> Any:
    hidden = F.relu(torch.matmul(m.a(x)[:, None], m.w1))
    return m.z(torch.matmul(hidden, m.w2).sum(1))


@cases({"einsum": experts_by_einsum, "products": experts_by_products})
def mixture_of_experts(function: Callable[[Any, Tensor], Any]) -> Built:
    return tokens(function, w1=weight(3, 8, 5), w2=weight(3, 5, 8))

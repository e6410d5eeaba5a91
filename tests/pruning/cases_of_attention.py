"""Conformance set: attention in its many spellings, transformers, Swin windows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.pruning.cases import (
    Built,
    Net,
    case,
    cases,
    conv,
    heads_of,
    images,
    merged,
    tokens,
    weight,
)

# --- attention ------------------------------------------------------------------------------------


def separate(m: Any, x: Tensor) -> Any:
    y = m.a(x)
    out = F.scaled_dot_product_attention(
        heads_of(m.q(y), 2), heads_of(m.k(y), 2), heads_of(m.v(y), 2)
    )
    return m.z(y + m.o(merged(out)))


def written_out(m: Any, x: Tensor) -> Any:
    y = m.a(x)
    q, k, v = (heads_of(part(y), 2) for part in (m.q, m.k, m.v))
    return m.z(y + m.o(merged((q @ k.transpose(-2, -1) * 0.5).softmax(-1) @ v)))


def with_bias(m: Any, x: Tensor) -> Any:
    y = m.a(x)
    q, k, v = (heads_of(part(y), 2) for part in (m.q, m.k, m.v))
    return m.z(y + m.o(merged((q @ k.transpose(-2, -1) + m.bias).softmax(-1) @ v)))


def with_bias_as_mask(m: Any, x: Tensor) -> Any:
    y = m.a(x)
    q, k, v = (heads_of(part(y), 2) for part in (m.q, m.k, m.v))
    return m.z(y + m.o(merged(F.scaled_dot_product_attention(q, k, v, attn_mask=m.bias))))


def with_causal_mask(m: Any, x: Tensor) -> Any:
    y = m.a(x)
    q, k, v = (heads_of(part(y), 2) for part in (m.q, m.k, m.v))
    return m.z(y + m.o(merged(F.scaled_dot_product_attention(q, k, v, is_causal=True))))


def with_masked_scores(m: Any, x: Tensor) -> Any:
    y = m.a(x)
    q, k, v = (heads_of(part(y), 2) for part in (m.q, m.k, m.v))
    scores = (q @ k.transpose(-2, -1)).masked_fill(m.future, float("-inf"))
    return m.z(y + m.o(merged(scores.softmax(-1) @ v)))


def with_batched_products(m: Any, x: Tensor) -> Any:
    y = m.a(x)
    q, k, v = (heads_of(part(y), 2).reshape(-1, 6, 4) for part in (m.q, m.k, m.v))
    out = torch.bmm(torch.bmm(q, k.transpose(1, 2)).softmax(-1), v)
    return m.z(y + m.o(merged(out.reshape(-1, 2, 6, 4))))


def with_einsum(m: Any, x: Tensor) -> Any:
    y = m.a(x)
    q, k, v = (part(y).reshape(-1, 6, 2, 4) for part in (m.q, m.k, m.v))
    scores = torch.einsum("bihd,bjhd->bhij", q, k).softmax(-1)
    return m.z(y + m.o(torch.einsum("bhij,bjhd->bihd", scores, v).reshape(-1, 6, 8)))


def linear_attention(m: Any, x: Tensor) -> Any:
    y = m.a(x)
    q, k, v = (heads_of(part(y), 2) for part in (m.q, m.k, m.v))
    return m.z(y + m.o(merged(q.softmax(-1) @ (k.softmax(-2).transpose(-2, -1) @ v))))


def cosine_attention(m: Any, x: Tensor) -> Any:
    y = m.a(x)
    q, k, v = (heads_of(part(y), 2) for part in (m.q, m.k, m.v))
    scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)
    return m.z(y + m.o(merged((scores * m.temperature.exp()).softmax(-1) @ v)))


def rotary_attention(m: Any, x: Tensor) -> Any:
    def rotated(t: Tensor) -> Tensor:
        p, q = t.chunk(2, -1)
        turned: Tensor = t * m.cos + torch.cat([-q, p], -1) * m.sin
        return turned

    y = m.a(x)
    q, k, v = (heads_of(part(y), 2) for part in (m.q, m.k, m.v))
    return m.z(y + m.o(merged(F.scaled_dot_product_attention(rotated(q), rotated(k), v))))


def talking_heads(m: Any, x: Tensor) -> Any:
    y = m.a(x)
    q, k, v = (heads_of(part(y), 2) for part in (m.q, m.k, m.v))
    scores = m.talk((q @ k.transpose(-2, -1)).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    return m.z(y + m.o(merged(scores.softmax(-1) @ v)))


_ATTENTIONS = {
    f.__name__: f
    for f in (
        separate,
        written_out,
        with_bias,
        with_bias_as_mask,
        with_causal_mask,
        with_masked_scores,
        with_batched_products,
        with_einsum,
        linear_attention,
        cosine_attention,
        rotary_attention,
        talking_heads,
    )
}


def _attention(function: Callable[..., Any]) -> Built:
    return tokens(
        function,
        q=nn.Linear(8, 8),
        k=nn.Linear(8, 8),
        v=nn.Linear(8, 8),
        o=nn.Linear(8, 8),
        bias=weight(2, 6, 6),
        temperature=weight(2, 1, 1),
        cos=torch.randn(6, 4),
        sin=torch.randn(6, 4),
        future=torch.ones(6, 6).triu(1).bool(),
        talk=nn.Linear(2, 2),
    )


@cases(_ATTENTIONS)
def attention(function: Callable[..., Any]) -> Built:
    return _attention(function)


@cases(_ATTENTIONS, heads=True)
def attention_heads(function: Callable[..., Any]) -> Built:
    return _attention(function)


def fused_in_front(m: Any, x: Tensor) -> Any:
    y = m.a(x)
    q, k, v = m.qkv(y).reshape(-1, 6, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
    return m.z(y + m.o(merged(F.scaled_dot_product_attention(q, k, v))))


def fused_then_chunked(m: Any, x: Tensor) -> Any:
    y = m.a(x)
    q, k, v = (heads_of(t, 2) for t in m.qkv(y).chunk(3, -1))
    return m.z(y + m.o(merged(F.scaled_dot_product_attention(q, k, v))))


def fused_inside_heads(m: Any, x: Tensor) -> Any:
    y = m.a(x)
    q, k, v = m.qkv(y).reshape(-1, 6, 2, 12).transpose(1, 2).chunk(3, -1)
    return m.z(y + m.o(merged(F.scaled_dot_product_attention(q, k, v))))


_FUSED = {f.__name__: f for f in (fused_in_front, fused_then_chunked, fused_inside_heads)}


@cases(_FUSED)
def attention_fused(function: Callable[..., Any]) -> Built:
    return tokens(function, qkv=nn.Linear(8, 24), o=nn.Linear(8, 8))


@cases(_FUSED, heads=True)
def attention_fused_heads(function: Callable[..., Any]) -> Built:
    return tokens(function, qkv=nn.Linear(8, 24), o=nn.Linear(8, 8))


def torch_attention(m: Any, x: Tensor) -> Any:
    y = m.a(x)
    return m.z(y + m.m(y, y, y, need_weights=False)[0])


@cases({"batch_first": True, "sequence_first": False})
def attention_of_torch(batch_first: bool) -> Built:
    return tokens(torch_attention, m=nn.MultiheadAttention(8, 2, batch_first=batch_first))


@cases({"batch_first": True}, heads=True)
def attention_of_torch_heads(batch_first: bool) -> Built:
    return tokens(torch_attention, m=nn.MultiheadAttention(8, 2, batch_first=batch_first))


@case
def attention_across_two_inputs() -> Built:
    def forward(m: Any, x: Tensor, memory: Tensor) -> Any:
        y = m.a(x)
        return m.z(y + m.m(y, memory, memory, need_weights=False)[0])

    parts = {
        "a": nn.Linear(8, 8),
        "z": nn.Linear(8, 2),
        "m": nn.MultiheadAttention(8, 2, kdim=5, vdim=5, batch_first=True),
    }
    return Net(forward, **parts), ((6, 8), (4, 5))


@cases({"encoder": nn.TransformerEncoderLayer, "decoder": nn.TransformerDecoderLayer})
def transformer_layer(kind: Any) -> Built:
    layer = kind(8, 2, 12, batch_first=True, norm_first=True)
    if kind is nn.TransformerDecoderLayer:
        return tokens(lambda m, x: m.z(m.m(y := m.a(x), y)), m=layer)
    return tokens(lambda m, x: m.z(m.m(m.a(x))), m=layer)


@cases({"1": 1, "2": 2})
def attention_with_grouped_queries(kv_heads: int) -> Built:
    def forward(m: Any, x: Tensor) -> Any:
        y = m.a(x)
        q, k, v = heads_of(m.q(y), 4), heads_of(m.k(y), kv_heads), heads_of(m.v(y), kv_heads)
        k, v = (
            t[:, :, None].expand(-1, -1, 4 // kv_heads, -1, -1).reshape(-1, 4, 6, 2) for t in (k, v)
        )
        return m.z(y + m.o(merged(F.scaled_dot_product_attention(q, k, v))))

    return tokens(
        forward,
        q=nn.Linear(8, 8),
        k=nn.Linear(8, 2 * kv_heads),
        v=nn.Linear(8, 2 * kv_heads),
        o=nn.Linear(8, 8),
    )


def _grouped_queries(heads: int) -> Built:
    def forward(m: Any, x: Tensor) -> Any:
        y = m.a(x)
        q, k, v = heads_of(m.q(y), 4), heads_of(m.k(y), 2), heads_of(m.v(y), 2)
        return m.z(y + m.o(merged(F.scaled_dot_product_attention(q, k, v, enable_gqa=True))))

    return tokens(
        forward, q=nn.Linear(8, 8), k=nn.Linear(8, 4), v=nn.Linear(8, 4), o=nn.Linear(8, 8)
    )


@cases({"native": 2})
def attention_grouped_queries(heads: int) -> Built:
    return _grouped_queries(heads)


@cases({"native": 2}, heads=True)
def attention_grouped_queries_heads(heads: int) -> Built:
    return _grouped_queries(heads)


@case
def attention_on_an_image() -> Built:
    def forward(m: Any, x: Tensor) -> Any:
        y = m.a(x)
        q, k, v = m.qkv(y).reshape(-1, 3, 2, 4, 64).unbind(1)
        out = v @ (q.transpose(-2, -1) @ k).softmax(-1).transpose(-2, -1)
        return m.z(y + m.o(out.reshape(-1, 8, 8, 8)))

    return images(forward, qkv=conv(8, 24, 1), o=conv(8, 8, 1))


@case
def attention_over_channels() -> Built:
    def forward(m: Any, x: Tensor) -> Any:
        y = m.a(x)
        q, k, v = (t.flatten(2) for t in m.qkv(y).chunk(3, 1))
        return m.z(y + ((q @ k.transpose(1, 2)).softmax(-1) @ v).reshape(-1, 8, 8, 8))

    return images(forward, qkv=conv(8, 24, 1))


@case
def attention_pooling() -> Built:
    def forward(m: Any, x: Tensor) -> Any:
        y = m.a(x)
        return m.z((torch.softmax(y @ m.q, 1).transpose(1, 2) @ m.v(y)).mean(1))

    return tokens(forward, q=weight(8, 3), v=nn.Linear(8, 8))


@case
def attention_by_learned_queries() -> Built:
    def forward(m: Any, x: Tensor) -> Any:
        y = m.a(x)
        q = m.q(m.queries.expand(x.shape[0], -1, -1))
        return m.z(F.scaled_dot_product_attention(q, m.k(y), m.v(y)))

    return tokens(
        forward, queries=weight(1, 3, 8), q=nn.Linear(8, 8), k=nn.Linear(8, 8), v=nn.Linear(8, 8)
    )


@case
def vision_transformer() -> Built:
    def forward(m: Any, x: Tensor) -> Any:
        y = m.p(x).flatten(2).transpose(1, 2)
        y = torch.cat([m.cls.expand(x.shape[0], -1, -1), y], 1) + m.pos
        for block in m.blocks:
            y = block(y)
        return m.z(m.n(y)[:, 0])

    def block() -> nn.Module:
        def run(m: Any, y: Tensor) -> Any:
            q, k, v = m.qkv(m.n1(y)).reshape(-1, 5, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
            y = y + m.g * m.o(merged(F.scaled_dot_product_attention(q, k, v)))
            return y + m.w2(F.gelu(m.w1(m.n2(y))))

        return Net(
            run,
            n1=nn.LayerNorm(8),
            qkv=nn.Linear(8, 24),
            o=nn.Linear(8, 8),
            g=weight(8),
            n2=nn.LayerNorm(8),
            w1=nn.Linear(8, 12),
            w2=nn.Linear(12, 8),
        )

    return images(
        forward,
        a=None,
        p=nn.Conv2d(3, 8, 4, stride=4),
        cls=weight(1, 1, 8),
        pos=weight(1, 5, 8),
        blocks=nn.ModuleList([block(), block()]),
        n=nn.LayerNorm(8),
        z=nn.Linear(8, 2),
    )


@case
def register_tokens() -> Built:
    def forward(m: Any, x: Tensor) -> Any:
        y = m.a(x)
        y = torch.cat([m.registers.expand(x.shape[0], -1, -1), y], 1)
        return m.z(m.b(y)[:, 2:])

    return tokens(forward, registers=weight(1, 2, 8), b=nn.Linear(8, 8))


@case
def position_embedding_is_sliced() -> Built:
    return tokens(lambda m, x: m.z(m.a(x) + m.pos[:, :6]), pos=weight(1, 9, 8))


@case
def position_embedding_as_an_image() -> Built:
    def forward(m: Any, x: Tensor) -> Any:
        return m.z(m.a(x).flatten(2).transpose(1, 2) + m.pos.permute(1, 2, 0).reshape(1, 64, 8))

    return images(forward, pos=weight(8, 8, 8), z=nn.Linear(8, 2))


@case
def position_embedding_resized() -> Built:
    return images(
        lambda m, x: m.z(m.a(x) + F.interpolate(m.pos, size=(8, 8), mode="bilinear")),
        pos=weight(1, 8, 4, 4),
    )


@case
def positions_by_axis() -> Built:
    def forward(m: Any, x: Tensor) -> Any:
        return m.z(m.a(x) + m.rows[None, :, :, None] + m.columns[None, :, None, :])

    return images(forward, rows=weight(8, 8), columns=weight(8, 8))


# --- Swin -----------------------------------------------------------------------------------------


def windows(x: Tensor, size: int) -> Tensor:
    n, h, w, c = x.shape
    x = x.view(n, h // size, size, w // size, size, c)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, size * size, c)


def unwindowed(x: Tensor, size: int, n: int) -> Tensor:
    x = x.view(n, 8 // size, 8 // size, size, size, -1)
    return x.permute(0, 1, 3, 2, 4, 5).reshape(n, 8, 8, -1)


def _swin(m: Any, x: Tensor) -> Any:
    y = m.a(x).permute(0, 2, 3, 1)
    shifted = torch.roll(y, (-2, -2), (1, 2))
    t = windows(shifted, 4)
    q, k, v = m.qkv(t).reshape(-1, 16, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
    bias = m.table[m.places].view(16, 16, 2).permute(2, 0, 1).unsqueeze(0)
    scores = (q * 0.5) @ k.transpose(-2, -1) + bias
    scores = scores.view(x.shape[0], 4, 2, 16, 16) + m.mask[:, None]
    out = merged(scores.view(-1, 2, 16, 16).softmax(-1) @ v)
    y = y + torch.roll(unwindowed(m.o(out), 4, x.shape[0]), (2, 2), (1, 2))
    merged_patches = torch.cat(
        [y[:, ::2, ::2], y[:, 1::2, ::2], y[:, ::2, 1::2], y[:, 1::2, 1::2]], -1
    )
    return m.z(m.r(m.n(merged_patches)).mean((1, 2)))


def _swin_block(_: Any) -> Built:
    return images(
        _swin,
        qkv=nn.Linear(8, 24),
        o=nn.Linear(8, 8),
        table=weight(49, 2),
        places=torch.randint(0, 49, (256,)),
        mask=torch.where(torch.rand(4, 16, 16) < 0.2, -100.0, 0.0),
        n=nn.LayerNorm(32),
        r=nn.Linear(32, 12, bias=False),
        z=nn.Linear(12, 2),
    )


@cases({"shifted_windows": None})
def swin(_: Any) -> Built:
    return _swin_block(_)


@cases({"shifted_windows": None}, heads=True)
def swin_heads(_: Any) -> Built:
    return _swin_block(_)


@case
def window_partition() -> Built:
    def forward(m: Any, x: Tensor) -> Any:
        y = m.a(x).permute(0, 2, 3, 1)
        return m.z(unwindowed(m.b(windows(y, 4)), 4, x.shape[0]))

    return images(forward, b=nn.Linear(8, 8), z=nn.Linear(8, 2))


@case
def grid_partition() -> Built:
    def forward(m: Any, x: Tensor) -> Any:
        n = x.shape[0]
        y = m.a(x).reshape(n, 8, 2, 4, 2, 4).permute(0, 3, 5, 2, 4, 1).reshape(n * 16, 4, 8)
        y = m.b(y).reshape(n, 4, 4, 2, 2, 8).permute(0, 5, 3, 1, 4, 2).reshape(n, 8, 8, 8)
        return m.z(y)

    return images(forward, b=nn.Linear(8, 8))

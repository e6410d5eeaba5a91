"""Scaled dot-product attention of floats."""

from __future__ import annotations

from math import sqrt

import numpy as np
from tvm import relax

from qpc.backends.tvm.kernels.floats.attention import AttentionDesc, attention
from qpc.backends.tvm.kernels.floats.product import Operand
from qpc.backends.tvm.lowering.floats.call import (
    FloatCall,
    Strided,
    batch_strides,
    broadcast_batch,
)
from qpc.backends.tvm.lowering.floats.linear import plain_product, scaled
from qpc.backends.tvm.lowering.floats.rule import Arguments, FloatRule, dtype_of, like, shape_of
from qpc.calls import aten


def _kernel(call: FloatCall) -> relax.Expr | None:
    args = call.args
    if not call.are_floats("query", "key", "value"):
        return None
    query, key, value = (_rows(call, args[name]) for name in ("query", "key", "value"))
    batch, (tokens, width) = query.shape[:-2], query.shape[-2:]
    keys, values = value.shape[-2:]
    if args["enable_gqa"]:
        batch, query, key, value = _sharing(query, key, value)
    if broadcast_batch(batch, key.shape[:-2], value.shape[:-2]) != batch:
        return None
    mask = None
    if args["attn_mask"] is not None:
        mask = _mask(call, args["attn_mask"], (*query.shape[:-1], keys))
    tensors = [query, key, value, *((mask,) if mask else ())]
    operands = [Operand(x.size, batch_strides(x, batch), x.strides[-2]) for x in tensors]
    desc = AttentionDesc(
        batch,
        tokens,
        keys,
        width,
        values,
        _scale(args),
        operands[0],
        operands[1],
        operands[2],
        operands[3] if mask else None,
        bool(args["is_causal"]),
    )
    made = attention(call.isa, desc, call.threads)
    return call.kernel(made, [x.expr for x in tensors], (*shape_of(args["query"])[:-1], values))


def _rows(call: FloatCall, x: relax.Expr) -> Strided:
    """A tensor whose rows lie side by side, wherever those are."""
    found = call.strided(x)
    return found if found.strides[-1] == 1 or found.shape[-1] == 1 else call.copied(found)


def _sharing(
    query: Strided, key: Strided, value: Strided
) -> tuple[tuple[int, ...], Strided, Strided, Strided]:
    """With the axis of heads in two: those of keys, and the queries that share one."""
    heads, shared = query.shape[-3], key.shape[-3]
    each = heads // shared
    batch = (*query.shape[:-3], shared, each)
    stride = query.strides[-3]
    apart = Strided(
        query.expr,
        (*batch, *query.shape[-2:]),
        (*query.strides[:-3], stride * each, stride, *query.strides[-2:]),
    )
    return batch, apart, _with_axis(key), _with_axis(value)


def _with_axis(x: Strided) -> Strided:
    shape, strides = (*x.shape[:-2], 1, *x.shape[-2:]), (*x.strides[:-2], 0, *x.strides[-2:])
    return Strided(x.expr, shape, strides)


def _mask(call: FloatCall, mask: relax.Expr, scores: tuple[int, ...]) -> Strided:
    """What is added to the scores."""
    builder, zero = call.emit.builder, relax.const(np.zeros((), np.float32))
    if dtype_of(mask) == "bool":
        mask = builder.emit(relax.op.where(mask, zero, relax.const(-np.inf, "float32")))
    shape = shape_of(mask)
    rank = len(scores) - len(shape)
    if call.args["enable_gqa"] and len(shape) > 2:
        heads = shape[-3]
        split = (scores[-4], scores[-3]) if heads > 1 else (1, 1)
        shape = [*shape[:-3], *split, *shape[-2:]]
        mask, rank = call.emit.view(mask, shape), len(scores) - len(shape)
    if shape[-1] != scores[-1]:
        shape = [*shape[:-1], scores[-1]]
        mask = builder.emit(relax.op.broadcast_to(mask, shape))
    found = call.contiguous(mask)
    ones = (1,) * rank
    padded = Strided(found.expr, (*ones, *found.shape), (*(0 for _ in ones), *found.strides))
    by_token = padded.strides[-2] if padded.shape[-2] != 1 else 0
    return Strided(padded.expr, padded.shape, (*padded.strides[:-2], by_token, 1))


def _scale(args: Arguments) -> float:
    width = int(args["query"].ty.shape[-1])
    return 1 / sqrt(width) if args["scale"] is None else float(args["scale"])


def _attention(args: Arguments) -> relax.Expr:
    # TVM's importer looks neither at the scale nor at whether heads share keys and values.
    query, key, value, mask = (args[n] for n in ("query", "key", "value", "attn_mask"))
    scale = _scale(args)
    dtype, rank = dtype_of(query), key.ty.ndim
    lengths = [int(query.ty.shape[-2]), int(key.ty.shape[-2])]
    if args["enable_gqa"]:
        sharing = int(query.ty.shape[-3]) // int(key.ty.shape[-3])
        key, value = (relax.op.repeat(x, sharing, axis=rank - 3) for x in (key, value))
    turned = relax.op.permute_dims(key, [*range(rank - 2), rank - 1, rank - 2])
    scores = plain_product(scaled(query, scale, dtype), turned, dtype)
    if args["is_causal"]:
        mask = relax.const(np.tril(np.ones(lengths, bool)))
    if mask is not None and (args["is_causal"] or dtype_of(mask) == "bool"):
        scores = relax.op.where(mask, scores, like(float("-inf"), query))
    elif mask is not None:
        scores = relax.op.add(scores, mask)
    return plain_product(relax.op.nn.softmax(scores, axis=-1), value, dtype)


RULES: dict[object, FloatRule] = {
    aten.scaled_dot_product_attention.default: FloatRule(_attention, _kernel),
}

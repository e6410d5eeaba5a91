"""Matrix products of floats, and attention."""

from __future__ import annotations

from math import sqrt

import numpy as np
from tvm import relax

from qpc.backends.tvm.lowering.floats.rule import Arguments, FloatRule, Rule, dtype_of, like
from qpc.calls import aten


def _linear(args: Arguments) -> relax.Expr:
    dtype = dtype_of(args["input"])
    made = _product(args["input"], relax.op.permute_dims(args["weight"]), dtype)
    return made if args["bias"] is None else relax.op.add(made, args["bias"])


def _product(a: relax.Expr, b: relax.Expr, dtype: str) -> relax.Expr:
    """A matrix product in the type of its operands; TVM's importer makes float32 of all."""
    return relax.op.matmul(a, b, out_dtype=dtype)


def _matmul(a: str, b: str) -> Rule:
    return lambda args: _product(args[a], args[b], dtype_of(args[a]))


def _added_product(a: str, b: str) -> Rule:
    """Beta * self + alpha * (a @ b)."""

    def rule(args: Arguments) -> relax.Expr:
        dtype = dtype_of(args[a])
        made = scaled(_product(args[a], args[b], dtype), args["alpha"], dtype)
        return relax.op.add(scaled(args["self"], args["beta"], dtype), made)

    return rule


def scaled(x: relax.Expr, factor: float, dtype: str) -> relax.Expr:
    """`x` times a number, which is left out if it is 1."""
    return x if factor == 1 else relax.op.multiply(x, relax.const(factor, dtype))


def _attention(args: Arguments) -> relax.Expr:
    # TVM's importer looks neither at the scale nor at whether heads share keys and values.
    query, key, value, mask = (args[n] for n in ("query", "key", "value", "attn_mask"))
    scale = args["scale"] if args["scale"] is not None else 1 / sqrt(int(query.ty.shape[-1]))
    dtype, rank = dtype_of(query), key.ty.ndim
    lengths = [int(query.ty.shape[-2]), int(key.ty.shape[-2])]
    if args["enable_gqa"]:
        sharing = int(query.ty.shape[-3]) // int(key.ty.shape[-3])
        key, value = (relax.op.repeat(x, sharing, axis=rank - 3) for x in (key, value))
    turned = relax.op.permute_dims(key, [*range(rank - 2), rank - 1, rank - 2])
    scores = _product(scaled(query, scale, dtype), turned, dtype)
    if args["is_causal"]:
        mask = relax.const(np.tril(np.ones(lengths, bool)))
    if mask is not None and (args["is_causal"] or dtype_of(mask) == "bool"):
        scores = relax.op.where(mask, scores, like(float("-inf"), query))
    elif mask is not None:
        scores = relax.op.add(scores, mask)
    return _product(relax.op.nn.softmax(scores, axis=-1), value, dtype)


RULES: dict[object, FloatRule] = {
    aten.linear.default: FloatRule(_linear),
    aten.matmul.default: FloatRule(_matmul("self", "other")),
    aten.mm.default: FloatRule(_matmul("self", "mat2")),
    aten.bmm.default: FloatRule(_matmul("self", "mat2")),
    aten.addmm.default: FloatRule(_added_product("mat1", "mat2")),
    aten.baddbmm.default: FloatRule(_added_product("batch1", "batch2")),
    aten.scaled_dot_product_attention.default: FloatRule(_attention),
}

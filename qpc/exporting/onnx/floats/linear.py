"""Matrix products and attention."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch.fx import Node

from qpc.calls import arguments, aten
from qpc.errors import UnsupportedOpError
from qpc.exporting.onnx.exporter import Exporter, Rule
from qpc.exporting.onnx.floats.functions import number


def _linear(to: Exporter, node: Node) -> str:
    """`aten.linear`."""
    given = arguments(node)
    name, weight = to.value(node, "input"), given["weight"]
    bias = [] if given["bias"] is None else [to.value(node, "bias")]
    if len(to.shape(given["input"])) == 2 and len(to.shape(weight)) == 2:
        return to.emit("Gemm", [name, to.of(weight), *bias], transB=1)
    made = to.emit("MatMul", [name, to.emit("Transpose", [to.of(weight)], perm=[1, 0])])
    return to.emit("Add", [made, *bias]) if bias else made


def _matmul(first: str, second: str) -> Rule:
    return lambda to, node: to.emit("MatMul", [to.value(node, first), to.value(node, second)])


def _added_product(first: str, second: str) -> Rule:
    """`beta * self + alpha * first @ second`."""

    def rule(to: Exporter, node: Node) -> str:
        given = arguments(node)
        made = to.emit("MatMul", [to.value(node, first), to.value(node, second)])
        added = to.value(node, "self")
        if given["alpha"] != 1:
            made = to.emit("Mul", [made, number(to, given["alpha"])])
        if given["beta"] != 1:
            added = to.emit("Mul", [added, number(to, given["beta"])])
        return to.emit("Add", [made, added])

    return rule


def _attention(to: Exporter, node: Node) -> str:
    """`aten.scaled_dot_product_attention` in its parts."""
    given = arguments(node)
    query, key, value = (given[name] for name in ("query", "key", "value"))
    if given["dropout_p"]:
        raise UnsupportedOpError("no ONNX form for attention with dropout", node=node)
    if given.get("enable_gqa"):
        raise UnsupportedOpError("no ONNX form for attention with shared keys", node=node)
    rank, scale = len(to.shape(query)), given["scale"]
    scale = 1 / math.sqrt(to.size(query, -1)) if scale is None else scale
    order = [*range(rank - 2), rank - 1, rank - 2]
    # Half of the scale on each side, as PyTorch has it, keeps products small.
    half = number(to, math.sqrt(scale))
    turned = to.emit("Transpose", [to.emit("Mul", [to.of(key), half])], perm=order)
    scores = to.emit("MatMul", [to.emit("Mul", [to.of(query), half]), turned])
    scores = _masked(to, node, scores)
    weights = to.emit("Softmax", [scores], axis=rank - 1)
    return to.emit("MatMul", [weights, to.of(value)])


def _masked(to: Exporter, node: Node, scores: str) -> str:
    given = arguments(node)
    mask = given["attn_mask"]
    if given["is_causal"]:
        rows, columns = to.size(given["query"], -2), to.size(given["key"], -2)
        allowed = np.tril(np.ones((rows, columns), bool))
        return to.emit("Where", [to.constant(allowed), scores, number(to, -math.inf)])
    if mask is None:
        return scores
    if to.type(mask).dtype is torch.bool:
        return to.emit("Where", [to.of(mask), scores, number(to, -math.inf)])
    return to.emit("Add", [scores, to.of(mask)])


RULES: dict[object, Rule] = {
    aten.linear.default: _linear,
    aten.matmul.default: _matmul("self", "other"),
    aten.mm.default: _matmul("self", "mat2"),
    aten.bmm.default: _matmul("self", "mat2"),
    aten.addmm.default: _added_product("mat1", "mat2"),
    aten.baddbmm.default: _added_product("batch1", "batch2"),
    aten.scaled_dot_product_attention.default: _attention,
}

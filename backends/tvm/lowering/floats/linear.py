"""Matrix products of floats."""

from __future__ import annotations

from math import prod

from torch import Tensor
from tvm import relax

from qpc.backends.tvm.kernels.floats.product import (
    LinearDesc,
    Operand,
    ProductDesc,
    linear,
    product,
)
from qpc.backends.tvm.lowering.floats.call import (
    FloatCall,
    Strided,
    batch_strides,
    broadcast_batch,
)
from qpc.backends.tvm.lowering.floats.rule import (
    Arguments,
    FloatRule,
    KernelWriter,
    Rule,
    dtype_of,
    shape_of,
)
from qpc.calls import aten


def _linear_kernel(call: FloatCall) -> relax.Expr | None:
    """A linear layer whose weights are known; others are products of two activations."""
    x, weight, bias = (call.args[name] for name in ("input", "weight", "bias"))
    if not call.are_floats("input", "weight", "bias") or weight.ty.ndim != 2:
        return None
    if "weight" not in call.tensors or (bias is not None and "bias" not in call.tensors):
        made = _multiplied(call, x, _turned(call, weight))
        return made if made is None or bias is None else relax.op.add(made, bias)
    return linear_by(call, x, call.tensors["weight"], call.tensors.get("bias"))


def linear_by(
    call: FloatCall, x: relax.Expr, weight: Tensor, bias: Tensor | None
) -> relax.Expr | None:
    """`x[..., k]` times the transposed weight[o, k], plus bias[o], by a kernel."""
    shape, (o, k) = shape_of(x), map(int, weight.shape)
    if not prod(shape) or not weight.numel() or shape[-1] != k:
        return None
    desc = LinearDesc(prod(shape[:-1]), k, o, bias is not None)
    added = None if bias is None else bias.detach().reshape(-1).numpy()
    given = weight.detach().numpy(), added
    made = linear(call.isa, desc, *given, call.threads)
    return call.kernel(made, [x], (*shape[:-1], o))


def _linear(args: Arguments) -> relax.Expr:
    dtype = dtype_of(args["input"])
    made = plain_product(args["input"], relax.op.permute_dims(args["weight"]), dtype)
    return made if args["bias"] is None else relax.op.add(made, args["bias"])


def plain_product(a: relax.Expr, b: relax.Expr, dtype: str) -> relax.Expr:
    """A matrix product in the type of its operands; TVM's importer makes float32 of all."""
    return relax.op.matmul(a, b, out_dtype=dtype)


def _matmul(a: str, b: str) -> Rule:
    return lambda args: plain_product(args[a], args[b], dtype_of(args[a]))


def _added_product(a: str, b: str) -> Rule:
    """Beta * self + alpha * (a @ b)."""

    def rule(args: Arguments) -> relax.Expr:
        dtype = dtype_of(args[a])
        made = scaled(plain_product(args[a], args[b], dtype), args["alpha"], dtype)
        return relax.op.add(scaled(args["self"], args["beta"], dtype), made)

    return rule


def scaled(x: relax.Expr, factor: float, dtype: str) -> relax.Expr:
    """`x` times a number, which is left out if it is 1."""
    return x if factor == 1 else relax.op.multiply(x, relax.const(factor, dtype))


def _product_kernel(a: str, b: str) -> KernelWriter:
    """A product of two activations, or of one and a constant."""

    def rule(call: FloatCall) -> relax.Expr | None:
        if not call.are_floats(a, b):
            return None
        constant = call.tensors.get(b)
        if constant is not None and constant.ndim == 2 and call.args[a].ty.ndim > 1:
            return linear_by(call, call.args[a], constant.t(), None)
        return _multiplied(call, *(call.strided(call.args[name]) for name in (a, b)))

    return rule


def _added_product_kernel(a: str, b: str) -> KernelWriter:
    def rule(call: FloatCall) -> relax.Expr | None:
        if not call.are_floats("self", a, b):
            return None
        made = _product_kernel(a, b)(call)
        if made is None:
            return None
        alpha, beta = call.args["alpha"], call.args["beta"]
        made = scaled(made, alpha, "float32")
        if beta == 0:  # what is added then may be anything, NaN too
            return call.emit.builder.emit(made)
        return call.emit.builder.emit(
            relax.op.add(scaled(call.args["self"], beta, "float32"), made)
        )

    return rule


def _turned(call: FloatCall, x: relax.Expr) -> Strided:
    """A matrix, transposed."""
    found = call.strided(x)
    return Strided(found.expr, found.shape[::-1], found.strides[::-1])


def _multiplied(call: FloatCall, a: Strided, b: Strided) -> relax.Expr | None:
    """The product of matrices, in batches of any shape, by a kernel; None for vectors."""
    if len(a.shape) < 2 or len(b.shape) < 2:
        return None
    a = a if a.strides[-1] == 1 or a.shape[-1] == 1 else call.copied(a)
    b = b if 1 in b.strides[-2:] else call.copied(b)
    batch = broadcast_batch(a.shape[:-2], b.shape[:-2])
    (m, k), n = a.shape[-2:], b.shape[-1]
    shape = (*batch, m, n)
    steps = batch_strides(a, batch), batch_strides(b, batch)
    if prod(b.shape[:-2]) == 1 and a.is_contiguous:  # rows of all products by one matrix
        batch, m, steps = (), prod(a.shape[:-1]), ((), ())
    left = Operand(a.size, steps[0], m and a.strides[-2])
    is_turned = b.strides[-1] != 1
    right = Operand(b.size, steps[1], b.strides[-1 if is_turned else -2], is_turned)
    made = product(call.isa, ProductDesc(batch, m, k, n, left, right), call.threads)
    return call.kernel(made, [a.expr, b.expr], shape)


RULES: dict[object, FloatRule] = {
    aten.linear.default: FloatRule(_linear, _linear_kernel),
    aten.matmul.default: FloatRule(_matmul("self", "other"), _product_kernel("self", "other")),
    aten.mm.default: FloatRule(_matmul("self", "mat2"), _product_kernel("self", "mat2")),
    aten.bmm.default: FloatRule(_matmul("self", "mat2"), _product_kernel("self", "mat2")),
    aten.addmm.default: FloatRule(
        _added_product("mat1", "mat2"), _added_product_kernel("mat1", "mat2")
    ),
    aten.baddbmm.default: FloatRule(
        _added_product("batch1", "batch2"), _added_product_kernel("batch1", "batch2")
    ),
}

"""Relax forms of operators that TVM's importer of PyTorch lacks or gets wrong.

A rule takes the call's arguments by schema name, with Relax tensors in place of tensors, and
returns a Relax expression, or None for arguments that it does not cover.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod, sqrt
from typing import Any

import numpy as np
from tvm import relax

from qpc.backends.tvm.lowering import extremes, logic, variance
from qpc.backends.tvm.lowering.relax_values import Rule, dtype_of, is_float, like, per_axis
from qpc.calls import aten
from qpc.types import dtype_name

# --- functions of one value -----------------------------------------------------------------------


def _where(args: Mapping[str, Any]) -> relax.Expr | None:
    # TVM's importer gives a number next to a tensor a type of its own.
    a, b = args["self"], args["other"]
    if isinstance(a, int | float) and isinstance(b, int | float):
        return None
    a = like(a, b) if isinstance(a, int | float) else a
    b = like(b, a) if isinstance(b, int | float) else b
    if dtype_of(a) != dtype_of(b):  # the one without axes adapts
        if a.ty.ndim and b.ty.ndim:
            return None
        a = a if a.ty.ndim else relax.op.astype(a, dtype_of(b))
        b = relax.op.astype(b, dtype_of(a))
    return relax.op.where(args["condition"], a, b)


def _power(args: Mapping[str, Any]) -> relax.Expr:
    # TVM warns on standard error about other forms of small powers.
    x, exponent = args["self"], args["exponent"]
    if exponent in (0.5, -0.5) and is_float(x):  # NaN of minus infinity, as powers are not
        return relax.op.sqrt(x) if exponent > 0 else relax.op.rsqrt(x)
    if exponent in (2, 3, 4):
        square = relax.op.multiply(x, x)
        factors = {2: (x, x), 3: (square, x), 4: (square, square)}
        return relax.op.multiply(*factors[int(exponent)])
    return relax.op.power(x, like(exponent, x))


def _remainder(args: Mapping[str, Any]) -> relax.Expr | None:
    """A - floor(a / b) * b: has the sign of b."""
    a, b = args["self"], args["other"]
    b = like(b, a) if isinstance(b, int | float) else b
    if not is_float(a) or not is_float(b):
        return relax.op.floor_mod(a, b) if str(dtype_of(a)) == str(dtype_of(b)) else None
    whole = relax.op.floor(relax.op.divide(a, b))
    return relax.op.subtract(a, relax.op.multiply(whole, b))


def _rounded_division(args: Mapping[str, Any]) -> relax.Expr | None:
    a, b = args["self"], args["other"]
    b = like(b, a) if isinstance(b, int | float) else b
    if not is_float(a) or not is_float(b):
        return None
    rounding = {"floor": relax.op.floor, "trunc": relax.op.trunc, None: None}[args["rounding_mode"]]
    quotient = relax.op.divide(a, b)
    return quotient if rounding is None else rounding(quotient)


# --- layers ---------------------------------------------------------------------------------------


def _conv(call: Callable[..., relax.Expr]) -> Rule:
    """A convolution in the type of its input; TVM's importer makes float32 of all."""

    def rule(args: Mapping[str, Any]) -> relax.Expr | None:
        x = args["input"]
        if x.ty.ndim != args["weight"].ty.ndim:
            return None
        named = {}
        if "output_padding" in args:
            named["output_padding"] = per_axis(args["output_padding"], x)
        made = call(
            x,
            args["weight"],
            strides=per_axis(args["stride"], x),
            padding=per_axis(args["padding"], x),
            dilation=per_axis(args["dilation"], x),
            groups=args["groups"],
            out_dtype=dtype_of(x),
            **named,
        )
        if args["bias"] is None:
            return made
        channels = (int(args["bias"].ty.shape[0]), *(1,) * (x.ty.ndim - 2))
        return relax.op.add(made, relax.op.reshape(args["bias"], channels))

    return rule


def _linear(args: Mapping[str, Any]) -> relax.Expr:
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

    def rule(args: Mapping[str, Any]) -> relax.Expr:
        dtype = dtype_of(args[a])
        made = _scaled(_product(args[a], args[b], dtype), args["alpha"], dtype)
        return relax.op.add(_scaled(args["self"], args["beta"], dtype), made)

    return rule


def _scaled(x: relax.Expr, factor: float, dtype: str) -> relax.Expr:
    return x if factor == 1 else relax.op.multiply(x, relax.const(factor, dtype))


def _attention(args: Mapping[str, Any]) -> relax.Expr:
    # TVM's importer looks neither at the scale nor at whether heads share keys and values.
    query, key, value, mask = (args[n] for n in ("query", "key", "value", "attn_mask"))
    scale = args["scale"] if args["scale"] is not None else 1 / sqrt(int(query.ty.shape[-1]))
    dtype, rank = dtype_of(query), key.ty.ndim
    lengths = [int(query.ty.shape[-2]), int(key.ty.shape[-2])]
    if args["enable_gqa"]:
        sharing = int(query.ty.shape[-3]) // int(key.ty.shape[-3])
        key, value = (relax.op.repeat(x, sharing, axis=rank - 3) for x in (key, value))
    turned = relax.op.permute_dims(key, [*range(rank - 2), rank - 1, rank - 2])
    scores = _product(_scaled(query, scale, dtype), turned, dtype)
    if args["is_causal"]:
        mask = relax.const(np.tril(np.ones(lengths, bool)))
    if mask is not None and (args["is_causal"] or dtype_of(mask) == "bool"):
        scores = relax.op.where(mask, scores, like(float("-inf"), query))
    elif mask is not None:
        scores = relax.op.add(scores, mask)
    return _product(relax.op.nn.softmax(scores, axis=-1), value, dtype)


def _softmax(operator: Callable[..., relax.Expr]) -> Rule:
    def rule(args: Mapping[str, Any]) -> relax.Expr:
        x = args["self"]
        wanted = args["dtype"]
        if wanted is not None:
            x = relax.op.astype(x, dtype_name(wanted))
        return operator(x, axis=args["dim"])

    return rule


def _layer_norm(args: Mapping[str, Any]) -> relax.Expr | None:
    x, sizes = args["input"], list(args["normalized_shape"])
    if dtype_of(x) not in ("float32", "float16"):
        return None
    weight, bias = args["weight"], args["bias"]
    weight = relax.op.ones(sizes, dtype_of(x)) if weight is None else weight
    bias = relax.op.zeros(sizes, dtype_of(x)) if bias is None else bias
    axes = [d - len(sizes) for d in range(len(sizes))]
    return relax.op.nn.layer_norm(x, weight, bias, axes=axes, epsilon=args["eps"])


def _group_norm(args: Mapping[str, Any]) -> relax.Expr | None:
    x = args["input"]
    if dtype_of(x) not in ("float32", "float16"):
        return None
    return _normalized_groups(x, args["num_groups"], args["weight"], args["bias"], args["eps"])


def _normalized_groups(
    x: relax.Expr,
    groups: int,
    weight: relax.Expr | None,
    bias: relax.Expr | None,
    epsilon: float,
) -> relax.Expr:
    """Layer norms of the groups of channels, then weight and bias of each channel.

    TVM's own group norm takes the variance from the sum of squares: where the mean is a thousand
    deviations, nothing of it is left in float32.
    """
    sizes = [int(size) for size in x.ty.shape]
    members = prod(sizes[1:]) // groups
    ones, zeros = relax.op.ones([members], dtype_of(x)), relax.op.zeros([members], dtype_of(x))
    apart = relax.op.reshape(x, [sizes[0], groups, members])
    result = relax.op.nn.layer_norm(apart, ones, zeros, axes=[-1], epsilon=epsilon)
    result = relax.op.reshape(result, sizes)
    per_channel = (sizes[1], *(1,) * (len(sizes) - 2))
    if weight is not None:
        result = relax.op.multiply(result, relax.op.reshape(weight, per_channel))
    return result if bias is None else relax.op.add(result, relax.op.reshape(bias, per_channel))


def _avg_pool2d(args: Mapping[str, Any]) -> relax.Expr | None:
    # TVM's importer does not look at divisor_override.
    x, divisor = args["self"], args["divisor_override"]
    if x.ty.ndim != 4 or (divisor is not None and args["ceil_mode"]):
        return None
    window = per_axis(args["kernel_size"], x)
    made = relax.op.nn.avg_pool2d(
        x,
        window,
        strides=per_axis(args["stride"], x) if args["stride"] else window,
        padding=per_axis(args["padding"], x),
        ceil_mode=args["ceil_mode"],
        count_include_pad=args["count_include_pad"] or divisor is not None,
    )
    return made if divisor is None else _scaled(made, prod(window) / divisor, dtype_of(x))


def _pool3d(call: Callable[..., relax.Expr]) -> Rule:
    def rule(args: Mapping[str, Any]) -> relax.Expr | None:
        x = args["self"]
        if args.get("divisor_override") is not None or x.ty.ndim != 5:
            return None
        window = per_axis(args["kernel_size"], x)
        named = {key: args[key] for key in ("count_include_pad",) if key in args}
        if "dilation" in args:
            named["dilation"] = per_axis(args["dilation"], x)
        return call(
            x,
            window,
            strides=per_axis(args["stride"], x) if args["stride"] else window,
            padding=per_axis(args["padding"], x),
            ceil_mode=args["ceil_mode"],
            **named,
        )

    return rule


# --- movement -------------------------------------------------------------------------------------


def _slice_scatter(args: Mapping[str, Any]) -> relax.Expr:
    """What comes before a slice of a tensor, the slice's new value, and what comes after."""
    x, axis = args["self"], args["dim"] % args["self"].ty.ndim
    size = int(x.ty.shape[axis])
    start, stop, step = slice(args["start"], args["end"], args["step"]).indices(size)
    if step != 1:
        return _strided_scatter(x, args["src"], axis, range(start, stop, step))
    before = relax.op.strided_slice(x, [axis], [0], [start])
    after = relax.op.strided_slice(x, [axis], [max(start, stop)], [size])
    parts = ((before, start), (args["src"], stop - start), (after, size - max(start, stop)))
    kept = [part for part, length in parts if length > 0]
    return relax.op.concat(kept, axis) if len(kept) > 1 else kept[0]


def _strided_scatter(x: relax.Expr, source: relax.Expr, axis: int, replaced: range) -> relax.Expr:
    """`x` with the positions `replaced` along an axis taken from `source`, in order."""
    size = int(x.ty.shape[axis])
    within = np.zeros(size, np.int64)
    within[list(replaced)] = np.arange(len(replaced))
    mask = np.zeros(size, bool)
    mask[list(replaced)] = True
    shape = [size if d == axis else 1 for d in range(x.ty.ndim)]
    spread = relax.op.take(source, relax.const(within), axis=axis, mode="clip")
    return relax.op.where(relax.const(mask.reshape(shape)), spread, x)


def _copy(args: Mapping[str, Any]) -> relax.Expr:
    """A value in the shape and type of the tensor that it overwrites."""
    x, source = args["self"], args["src"]
    return relax.op.broadcast_to(relax.op.astype(source, dtype_of(x)), list(map(int, x.ty.shape)))


def _index_select(args: Mapping[str, Any]) -> relax.Expr:
    return relax.op.take(args["self"], args["index"], axis=args["dim"], mode="clip")


def _embedding(args: Mapping[str, Any]) -> relax.Expr:
    # TVM's importer reads out of bounds for an index that is too large.
    return relax.op.take(args["weight"], args["indices"], axis=0, mode="clip")


def _index(args: Mapping[str, Any]) -> relax.Expr | None:
    """Indexing by integer tensors on axes that follow each other."""
    x = args["self"]
    given = {axis: index for axis, index in enumerate(args["indices"]) if index is not None}
    axes = list(given)
    if axes != list(range(axes[0], axes[-1] + 1)):
        return None
    if any("int" not in str(index.ty.dtype) for index in given.values()):
        return None
    sizes = [int(d) for d in x.ty.shape]
    position: relax.Expr | None = None
    for axis, index in given.items():
        size = relax.const(sizes[axis], "int64")
        index = relax.op.astype(index, "int64")
        inside = relax.op.floor_mod(index, size)  # negative ones count from the end
        before = None if position is None else relax.op.multiply(position, size)
        position = inside if before is None else relax.op.add(before, inside)
    merged = (*sizes[: axes[0]], prod(sizes[a] for a in axes), *sizes[axes[-1] + 1 :])
    return relax.op.take(relax.op.reshape(x, merged), position, axis=axes[0], mode="clip")


def _select(args: Mapping[str, Any]) -> relax.Expr:
    x, axis, index = args["self"], args["dim"] % args["self"].ty.ndim, args["index"]
    start = index % int(x.ty.shape[axis])
    return relax.op.squeeze(relax.op.strided_slice(x, [axis], [start], [start + 1]), [axis])


def _batch_norm(args: Mapping[str, Any]) -> relax.Expr | None:
    x, weight, bias = args["input"], args["weight"], args["bias"]
    if args["training"]:
        return None
    dtype = str(x.ty.dtype.dtype)
    per_channel = (int(x.ty.shape[1]), *(1,) * (x.ty.ndim - 2))
    mean, variance = args["running_mean"], args["running_var"]
    scale = relax.op.rsqrt(relax.op.add(variance, relax.const(args["eps"], dtype)))
    scale = scale if weight is None else relax.op.multiply(scale, weight)
    centred = relax.op.subtract(x, relax.op.reshape(mean, per_channel))
    result = relax.op.multiply(centred, relax.op.reshape(scale, per_channel))
    return result if bias is None else relax.op.add(result, relax.op.reshape(bias, per_channel))


def _instance_norm(args: Mapping[str, Any]) -> relax.Expr | None:
    """One group per channel."""
    x = args["input"]
    if not args["use_input_stats"]:
        return None
    channels = int(x.ty.shape[1])
    return _normalized_groups(x, channels, args["weight"], args["bias"], args["eps"])


OWN_RULES: dict[Any, Rule] = (
    extremes.RULES
    | logic.RULES
    | variance.RULES
    | {
        aten.embedding.default: _embedding,
        aten.index.Tensor: _index,
        aten._unsafe_index.Tensor: _index,
        aten.select.int: _select,
        aten.batch_norm.default: _batch_norm,
        aten.instance_norm.default: _instance_norm,
        aten.where.self: _where,
        aten.where.ScalarOther: _where,
        aten.where.ScalarSelf: _where,
        aten.remainder.Scalar: _remainder,
        aten.remainder.Tensor: _remainder,
        aten.div.Tensor_mode: _rounded_division,
        aten.conv1d.default: _conv(relax.op.nn.conv1d),
        aten.conv2d.default: _conv(relax.op.nn.conv2d),
        aten.conv3d.default: _conv(relax.op.nn.conv3d),
        aten.conv_transpose1d.default: _conv(relax.op.nn.conv1d_transpose),
        aten.conv_transpose2d.input: _conv(relax.op.nn.conv2d_transpose),
        aten.conv_transpose3d.input: _conv(relax.op.nn.conv3d_transpose),
        aten.avg_pool3d.default: _pool3d(relax.op.nn.avg_pool3d),
        aten.linear.default: _linear,
        aten.matmul.default: _matmul("self", "other"),
        aten.mm.default: _matmul("self", "mat2"),
        aten.bmm.default: _matmul("self", "mat2"),
        aten.addmm.default: _added_product("mat1", "mat2"),
        aten.baddbmm.default: _added_product("batch1", "batch2"),
        aten.scaled_dot_product_attention.default: _attention,
        aten.softmax.int: _softmax(relax.op.nn.softmax),
        aten.log_softmax.int: _softmax(relax.op.nn.log_softmax),
        aten.layer_norm.default: _layer_norm,
        aten.group_norm.default: _group_norm,
        aten.avg_pool2d.default: _avg_pool2d,
        aten.pow.Tensor_Scalar: _power,
        aten.pow.Scalar: lambda args: relax.op.power(
            like(args["self"], args["exponent"]), args["exponent"]
        ),
        aten.copy.default: _copy,
        aten.slice_scatter.default: _slice_scatter,
        aten.index_select.default: _index_select,
    }
)

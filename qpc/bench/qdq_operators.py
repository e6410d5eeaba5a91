"""The ONNX form of every operator that may stand in an integer graph.

A rule returns the name of the float result; the exporter rounds it where the graph does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import Node
from torch.nn import functional as F

from qpc.bench.exporter import Exporter, Rule
from qpc.errors import UnsupportedOpError
from qpc.ops import views
from qpc.ops.views import arguments, aten, qpc_ops
from qpc.quant.fixedpoint import lookup_table, requant_table

# --- layers ---------------------------------------------------------------------------------------


def _conv2d(to: Exporter, node: Node) -> str:
    view = views.IntConv2d(node)
    source, (top, left) = view.input, view.padding
    pads = [top, left, top, left]
    if (extra := _zero_padding(to, source)) is not None:
        source, pads = source.all_input_nodes[0], [a + b for a, b in zip(pads, extra, strict=True)]
    made = to.emit(
        "Conv",
        [to.names[source], *_weights(to, node)],
        strides=view.stride,
        pads=pads,
        dilations=view.dilation,
        group=view.groups,
    )
    return to.clipped(node, made)


def _zero_padding(to: Exporter, node: Node) -> list[int] | None:
    """What a padding by zeros of height and width alone adds: top, left, bottom, right."""
    pad = views.Pad.of(node)
    if pad is None or len(pad.pad) > 4 or pad.value != to.grid(node).zero_point:
        return None
    left, right, top, bottom = (*pad.pad, 0, 0)[:4]
    return [top, left, bottom, right] if min(left, right, top, bottom) >= 0 else None


def _linear(to: Exporter, node: Node) -> str:
    source = views.IntLinear(node).input
    rank = len(to.shape(source))
    name, shape = to.names[source], to.shape(node)
    if rank != 2:  # Gemm takes matrices
        name = to.emit("Reshape", [name, to.integers((-1, to.shape(source)[-1]))])
    made = to.emit("Gemm", [name, *_weights(to, node)], transB=1)
    if rank != 2:
        made = to.emit("Reshape", [made, to.integers(shape)])
    return to.clipped(node, made)


def _weights(to: Exporter, node: Node) -> list[str]:
    """Names of the weight and the bias; their scales follow from the multiplier."""
    view = views.IntConv2d.of(node) or views.IntLinear(node)
    multiplier = to.tensor(node, "multiplier").to(torch.float64)
    accumulator = multiplier * to.grid(node).scale  # the product of input scale and weight scale
    weight = accumulator / to.grid(view.input).scale
    return [
        to.dequantized(to.tensor(node, "weight"), weight.to(torch.float32)),
        to.dequantized(to.tensor(node, "bias"), accumulator.to(torch.float32)),
    ]


# --- integer operators without weights ------------------------------------------------------------


def _quantize(to: Exporter, node: Node) -> str:
    return to.value(node, "x")


def _dequantize(to: Exporter, node: Node) -> str:
    return to.value(node, "q")


def _int_binary(kind: str) -> Rule:
    def export(to: Exporter, node: Node) -> str:
        return to.clipped(node, to.emit(kind, [to.value(node, "a"), to.value(node, "b")]))

    return export


def _int_clamp(to: Exporter, node: Node) -> str:
    return to.clipped(node, to.value(node, "q"))


def _int_avg_pool2d(to: Exporter, node: Node) -> str:
    window = {k: views.Pair().decode(arguments(node)[k]) for k in ("kernel_size", "padding")}
    stride = arguments(node)["stride"] or window["kernel_size"]
    made = to.emit(
        "AveragePool",
        [to.value(node, "q")],
        kernel_shape=window["kernel_size"],
        strides=views.Pair().decode(stride),
        pads=window["padding"] * 2,
        count_include_pad=1,
    )
    return to.clipped(node, made)


def _int_mean(to: Exporter, node: Node) -> str:
    given = arguments(node)
    made = _average(to, to.value(node, "q"), to.shape(given["q"]), given["dims"], given["keepdim"])
    return to.clipped(node, made)


def _average(
    to: Exporter, name: str, shape: tuple[int, ...], dims: list[int] | None, keepdim: bool
) -> str:
    axes = sorted(d % len(shape) for d in dims or range(len(shape)))
    if axes == [2, 3] and len(shape) == 4 and keepdim:
        return to.emit("GlobalAveragePool", [name])
    return to.emit("ReduceMean", [name], axes=axes, keepdims=int(keepdim))


def _max_pool2d(to: Exporter, node: Node) -> str:
    given = arguments(node)
    pairs = {k: views.Pair().decode(given[k]) for k in ("kernel_size", "padding", "dilation")}
    source = given["q"] if "q" in given else given["self"]
    return to.emit(
        "MaxPool",
        [to.names[source]],
        kernel_shape=pairs["kernel_size"],
        strides=views.Pair().decode(given["stride"] or pairs["kernel_size"]),
        pads=pairs["padding"] * 2,
        dilations=pairs["dilation"],
        ceil_mode=int(given["ceil_mode"]),
    )


def _lookup(to: Exporter, node: Node) -> str:
    """The function that a table holds, found by making the tables of all that are known."""
    source = arguments(node)["q"]
    before, after, table = to.grid(source), to.grid(node), to.tensor(node, "table")
    if torch.equal(requant_table(before, after), table):
        # To round the operands of a concat to its grid, or its result, is the same.
        if all(views.Cat.matches(user) and to.grid(user) == after for user in node.users):
            to.rounded_later.add(node)
        return to.names[source]
    for function, export in _TABULATED:
        if torch.equal(lookup_table(function, before, after), table):
            return export(to, to.names[source])
    raise UnsupportedOpError("no ONNX form for the function of a table", node=node)


def _gelu(to: Exporter, name: str) -> str:
    """X / 2 * (1 + erf(x / sqrt(2))): opset 17 has no operator of its own."""
    scaled = to.emit("Div", [name, to.constant(np.float32(math.sqrt(2)))])
    grown = to.emit("Add", [to.emit("Erf", [scaled]), to.constant(np.float32(1))])
    return to.emit("Mul", [to.emit("Mul", [name, grown]), to.constant(np.float32(0.5))])


def _unary(kind: str, **attributes: Any) -> Callable[[Exporter, str], str]:
    return lambda to, name: to.emit(kind, [name], **attributes)


_TABULATED: tuple[tuple[Callable[[Tensor], Tensor], Callable[[Exporter, str], str]], ...] = (
    (F.relu, _unary("Relu")),
    (F.hardswish, _unary("HardSwish")),
    (F.hardsigmoid, _unary("HardSigmoid", alpha=1 / 6, beta=0.5)),
    (torch.sigmoid, _unary("Sigmoid")),
    (F.silu, lambda to, name: to.emit("Mul", [name, to.emit("Sigmoid", [name])])),
    (torch.tanh, _unary("Tanh")),
    (F.gelu, _gelu),
    (F.leaky_relu, _unary("LeakyRelu", alpha=0.01)),
    (F.elu, _unary("Elu")),
)


# --- operators that move values, of integers and of floats ----------------------------------------


def _cat(to: Exporter, node: Node) -> str:
    view = views.Cat(node)
    return to.emit("Concat", [to.names[v] for v in view.tensors], axis=view.dim)


def _reshape(to: Exporter, node: Node) -> str:
    return to.emit("Reshape", [to.value(node, "self"), to.integers(to.shape(node))])


def _permute(to: Exporter, node: Node) -> str:
    given = arguments(node)
    rank = len(given["dims"])
    return to.emit("Transpose", [to.value(node, "self")], perm=[d % rank for d in given["dims"]])


def _slice(to: Exporter, node: Node) -> str:
    given = arguments(node)
    axis = given["dim"] % len(to.shape(node))
    size = to.shape(given["self"])[axis]
    start = given["start"] or 0
    end = size if given["end"] is None else min(given["end"], size)
    row = [to.integers([v]) for v in (start, end, axis, given["step"])]
    return to.emit("Slice", [to.value(node, "self"), *row])


def _pad(to: Exporter, node: Node) -> str:
    view = views.Pad(node)
    if _zero_padding(to, node) is not None and all(
        views.IntConv2d.matches(user) for user in node.users
    ):
        return to.names[view.input]  # the convolutions do it
    rank, value = len(to.shape(node)), view.value
    if to.shape(node) and _is_integer(to, node):
        grid = to.grid(node)
        value = (view.value - grid.zero_point) * grid.scale
    before, after = [0] * rank, [0] * rank
    for i in range(len(view.pad) // 2):
        before[-1 - i], after[-1 - i] = view.pad[2 * i : 2 * i + 2]
    ends = [to.integers([*before, *after]), to.constant(np.float32(value))]
    return to.emit("Pad", [to.names[view.input], *ends])


def _is_integer(to: Exporter, node: Node) -> bool:
    return getattr(to.types[node], "dtype", None) in (torch.uint8, torch.int8)


# --- operators that stayed in float ---------------------------------------------------------------


def _batch_norm(to: Exporter, node: Node) -> str:
    names = [to.value(node, "input")]
    for argument, default in (("weight", 1.0), ("bias", 0.0)):
        if arguments(node)[argument] is None:
            size = to.shape(node)[1]
            names.append(to.constant(np.full(size, default, np.float32)))
        else:
            names.append(to.constant(to.tensor(node, argument).numpy()))
    statistics = [to.tensor(node, argument) for argument in ("running_mean", "running_var")]
    names += [to.constant(tensor.numpy()) for tensor in statistics]
    return to.emit("BatchNormalization", names, epsilon=views.BatchNorm(node).eps)


def _relu(to: Exporter, node: Node) -> str:
    return to.emit("Relu", [to.value(node, "self")])


def _mean(to: Exporter, node: Node) -> str:
    view = views.Mean(node)
    return _average(
        to, to.names[view.input], to.shape(view.input), list(view.dims) or None, view.keepdim
    )


RULES: Mapping[object, Rule] = {
    qpc_ops.conv2d.default: _conv2d,
    qpc_ops.linear.default: _linear,
    qpc_ops.quantize.default: _quantize,
    qpc_ops.dequantize.default: _dequantize,
    qpc_ops.add.default: _int_binary("Add"),
    qpc_ops.mul.default: _int_binary("Mul"),
    qpc_ops.clamp.default: _int_clamp,
    qpc_ops.avg_pool2d.default: _int_avg_pool2d,
    qpc_ops.mean.default: _int_mean,
    qpc_ops.max_pool2d.default: _max_pool2d,
    qpc_ops.lookup.default: _lookup,
    aten.max_pool2d.default: _max_pool2d,
    aten.cat.default: _cat,
    aten.reshape.default: _reshape,
    aten.permute.default: _permute,
    aten.slice.Tensor: _slice,
    aten.constant_pad_nd.default: _pad,
    aten.batch_norm.default: _batch_norm,
    aten.relu.default: _relu,
    aten.mean.dim: _mean,
}

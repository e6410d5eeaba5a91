"""ONNX operators in PyTorch: a function for each, from its node and inputs to its output."""

from __future__ import annotations

import importlib
import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from qpc.importers.onnx.values import Call, Value, as_sizes, as_tensor

Rule = Callable[..., Value]
_LATEST_AXES = 13
"""The opset since which axes are inputs, and softmax works on one axis."""


def _pads(call: Call, x: Tensor, axes: int, fill: float = 0.0) -> tuple[Tensor, list[int]]:
    """Padding that is the same at both ends of each axis, after what is left is done by itself."""
    call.require("auto_pad", "NOTSET", "VALID")
    pads = call.get("pads", [0] * 2 * axes)
    begins, ends = pads[:axes], pads[axes:]
    if begins == ends:
        return x, begins
    turned = [n for pair in reversed(list(zip(begins, ends, strict=True))) for n in pair]
    return F.pad(x, turned, value=fill), [0] * axes


def _conv(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    axes = weight.dim() - 2
    x, padding = _pads(call, x, axes)
    ones, groups = [1] * axes, call.get("group", 1)
    run: Any = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[axes]
    made: Tensor = run(
        x, weight, bias, call.get("strides", ones), padding, call.get("dilations", ones), groups
    )
    return made


def _conv_transpose(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    axes = weight.dim() - 2
    call.require("auto_pad", "NOTSET")
    pads, ones = call.get("pads", [0] * 2 * axes), [1] * axes
    if pads[:axes] != pads[axes:] or "output_shape" in call.attributes:
        raise call.refuse("its padding differs at both ends")
    run: Any = {1: F.conv_transpose1d, 2: F.conv_transpose2d}[axes]
    more = call.get("output_padding", [0] * axes), call.get("group", 1), call.get("dilations", ones)
    made: Tensor = run(x, weight, bias, call.get("strides", ones), pads[:axes], *more)
    return made


def _gemm(call: Call, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    alpha, beta = call.get("alpha", 1.0), call.get("beta", 1.0)
    a = a.t() if call.get("transA", 0) else a
    plain = alpha == 1.0 and beta == 1.0 and (c is None or c.dim() == 1)
    if plain and call.get("transB", 0):
        return F.linear(a, b, c)
    product: Tensor = a @ (b.t() if call.get("transB", 0) else b) * alpha
    return product if c is None else product + c * beta


def _max_pool(call: Call, x: Tensor) -> Tensor:
    kernel = call.attributes["kernel_shape"]
    axes = len(kernel)
    call.require("storage_order", 0)
    x, padding = _pads(call, x, axes, float("-inf"))
    run: Any = {1: F.max_pool1d, 2: F.max_pool2d}[axes]
    ceil, ones = bool(call.get("ceil_mode", 0)), [1] * axes
    made: Tensor = run(
        x, kernel, call.get("strides", ones), padding, call.get("dilations", ones), ceil
    )
    return made


def _average_pool(call: Call, x: Tensor) -> Tensor:
    kernel = call.attributes["kernel_shape"]
    counted = bool(call.get("count_include_pad", 0))
    call.require("dilations", [1] * len(kernel))
    x, padding = _pads(call, x, len(kernel)) if counted else (x, call.get("pads", [0, 0, 0, 0])[:2])
    if not counted and call.get("pads", [0] * 4)[2:] != padding:
        raise call.refuse("its padding differs at both ends")
    strides = call.get("strides", [1] * len(kernel))
    return F.avg_pool2d(x, kernel, strides, padding, bool(call.get("ceil_mode", 0)), counted)


def _mean(call: Call, x: Tensor, axes: Value = None) -> Tensor:
    found = as_sizes(axes) if axes is not None else call.get("axes") or list(range(x.dim()))
    return x.mean(found, keepdim=bool(call.get("keepdims", 1)))


def _sum(call: Call, x: Tensor, axes: Value = None) -> Tensor:
    found = as_sizes(axes) if axes is not None else call.get("axes") or list(range(x.dim()))
    return x.sum(found, keepdim=bool(call.get("keepdims", 1)))


def _batch_norm(call: Call, x: Tensor, gamma: Any, beta: Any, mean: Any, variance: Any) -> Tensor:
    call.require("training_mode", 0)
    return F.batch_norm(x, mean, variance, gamma, beta, eps=call.get("epsilon", 1e-5))


def _layer_norm(call: Call, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    axis = call.get("axis", -1) % x.dim()
    return F.layer_norm(x, x.shape[axis:], scale, bias, call.get("epsilon", 1e-5))


def _softmax(call: Call, x: Tensor) -> Tensor:
    if call.opset < _LATEST_AXES:
        raise call.refuse("before opset 13 it works on several axes")
    return F.softmax(x, call.get("axis", -1))


def _clip(call: Call, x: Tensor, low: Value = None, high: Value = None) -> Tensor:
    ends = [call.get(n) if v is None else float(v) for n, v in (("min", low), ("max", high))]
    return x if ends == [None, None] else x.clamp(*ends)


def _reshape(call: Call, x: Tensor, shape: Value) -> Tensor:
    call.require("allowzero", 0)
    wanted = as_sizes(shape)
    return x.reshape(
        [x.shape[i] if isinstance(n, int) and n == 0 else n for i, n in enumerate(wanted)]
    )


def _squeeze(call: Call, x: Value, axes: Value = None) -> Value:
    if not isinstance(x, Tensor):
        return x[0] if isinstance(x, list) else x
    found = as_sizes(axes) if axes is not None else call.get("axes")
    return x.squeeze() if found is None else x.squeeze([n % x.dim() for n in found])


def _unsqueeze(call: Call, x: Value, axes: Value = None) -> Value:
    if not isinstance(x, Tensor):
        return [x]
    found = as_sizes(axes) if axes is not None else call.attributes["axes"]
    for axis in sorted(n % (x.dim() + len(found)) for n in found):
        x = x.unsqueeze(axis)
    return x


def _gather(call: Call, x: Value, indices: Value) -> Value:
    if isinstance(x, list):
        places = indices.tolist() if isinstance(indices, Tensor) else indices
        return [x[i] for i in places] if isinstance(places, list) else x[places]
    places = as_tensor(indices)
    axis = call.get("axis", 0) % x.dim()
    if places.dim() == 0:
        return x.select(axis, int(places))
    if places.dim() > 1:
        raise call.refuse("its indices have several axes")
    return x.index_select(axis, places)


def _concat(call: Call, *parts: Value) -> Value:
    if any(not isinstance(p, Tensor) for p in parts):
        return [n for part in parts for n in as_sizes(part)]
    return torch.cat(parts, call.attributes["axis"])


def _slice(call: Call, x: Value, *rest: Value) -> Value:
    if not rest:  # before opset 10
        rest = (call.attributes["starts"], call.attributes["ends"], call.get("axes"))
    starts, ends = as_sizes(rest[0]), as_sizes(rest[1])
    axes = as_sizes(rest[2]) if len(rest) > 2 and rest[2] is not None else list(range(len(starts)))
    steps = as_sizes(rest[3]) if len(rest) > 3 and rest[3] is not None else [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if step < 1:
            raise call.refuse("it goes backwards")
        cut = slice(start, end, step)
        x = x[cut] if isinstance(x, list) else x[(slice(None),) * (axis % x.dim()) + (cut,)]
    return x


def _split(call: Call, x: Tensor, sizes: Value = None) -> Value:
    axis, count = call.get("axis", 0), len(call.outputs)
    given = as_sizes(sizes) if sizes is not None else call.get("split")
    return x.split(given, axis) if given else x.tensor_split(count, axis)


def _pad(
    call: Call, x: Tensor, pads: Value = None, fill: Value = None, axes: Value = None
) -> Tensor:
    call.require("mode", "constant")
    if axes is not None:
        raise call.refuse("it names its axes")
    found = as_sizes(pads) if pads is not None else call.attributes["pads"]
    half = len(found) // 2
    turned = [n for i in reversed(range(half)) for n in (found[i], found[half + i])]
    return F.pad(x, turned, value=0.0 if fill is None else float(fill))


def _cast(call: Call, x: Value) -> Value:
    from onnx import TensorProto

    if not isinstance(x, Tensor):
        return x
    kinds = {TensorProto.FLOAT: torch.float32, TensorProto.INT64: torch.int64}
    kinds |= {TensorProto.INT32: torch.int32, TensorProto.BOOL: torch.bool}
    if (kind := kinds.get(call.attributes["to"])) is None:
        raise call.refuse(f"the type {call.attributes['to']} is not read")
    return x.to(kind)


def _arithmetic(function: Callable[[Any, Any], Any]) -> Rule:
    def run(call: Call, a: Value, b: Value) -> Value:
        if isinstance(a, Tensor) or isinstance(b, Tensor):
            return function(as_tensor(a), as_tensor(b))
        whole = operator.floordiv if function is operator.truediv else function
        left, right = as_sizes(a), as_sizes(b)
        count = max(len(left), len(right))
        found = [
            whole(x, y)
            for x, y in zip(left * (count // len(left)), right * (count // len(right)), strict=True)
        ]
        return found if isinstance(a, list) or isinstance(b, list) else found[0]

    return run


def _quantize(call: Call, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    call.require("block_size", 0)
    if scale.numel() != 1:
        raise call.refuse("values have one scale")
    dtype = zero.dtype if zero is not None else torch.uint8
    limits = torch.iinfo(dtype)
    point = torch.zeros(1, dtype=torch.int64) if zero is None else zero
    grid = scale, point, limits.min, limits.max, dtype
    made: Tensor = _foreign().quantize_per_tensor.tensor(x, *grid)
    return made


def _dequantize(call: Call, q: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    call.require("block_size", 0)
    limits = torch.iinfo(q.dtype)
    ends = limits.min, limits.max, q.dtype
    if scale.numel() == 1:
        point = torch.zeros(1, dtype=torch.int64) if zero is None else zero
        one: Tensor = _foreign().dequantize_per_tensor.tensor(q, scale, point, *ends)
        return one
    zeros = torch.zeros(scale.numel(), dtype=torch.int64) if zero is None else zero.long()
    axis = call.get("axis", 1) % q.dim()
    made: Tensor = _foreign().dequantize_per_channel(q, scale, zeros, axis, *ends)
    return made


def _foreign() -> Any:
    importlib.import_module("torch.ao.quantization.fx._decomposed")  # which defines them
    return torch.ops.quantized_decomposed


def _plain(function: Callable[..., Any]) -> Rule:
    return lambda call, *inputs: function(*inputs)


RULES: Mapping[str, Rule] = {
    "Abs": _plain(torch.abs),
    "Add": _arithmetic(operator.add),
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Cast": _cast,
    "Clip": _clip,
    "Concat": _concat,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "DequantizeLinear": _dequantize,
    "Div": _arithmetic(operator.truediv),
    "Dropout": lambda call, x, *_: x,
    "Erf": _plain(torch.erf),
    "Exp": _plain(torch.exp),
    "Expand": lambda call, x, shape: x.expand(torch.broadcast_shapes(x.shape, as_sizes(shape))),
    "Flatten": lambda call, x: (
        x.flatten(1) if call.get("axis", 1) == 1 else x.flatten(call.get("axis", 1)).flatten(0, -2)
    ),
    "Gather": _gather,
    "Gemm": _gemm,
    "GlobalAveragePool": lambda call, x: x.mean(list(range(2, x.dim())), keepdim=True),
    "HardSigmoid": lambda call, x: (x * call.get("alpha", 0.2) + call.get("beta", 0.5)).clamp(
        0.0, 1.0
    ),
    "HardSwish": _plain(F.hardswish),
    "Identity": _plain(lambda x: x),
    "LayerNormalization": _layer_norm,
    "LeakyRelu": lambda call, x: F.leaky_relu(x, call.get("alpha", 0.01)),
    "Log": _plain(torch.log),
    "MatMul": _plain(torch.matmul),
    "MaxPool": _max_pool,
    "Mul": _arithmetic(operator.mul),
    "Neg": _plain(operator.neg),
    "Pad": _pad,
    "Pow": _arithmetic(operator.pow),
    "QuantizeLinear": _quantize,
    "Reciprocal": _plain(torch.reciprocal),
    "ReduceMean": _mean,
    "ReduceSum": _sum,
    "Relu": _plain(torch.relu),
    "Reshape": _reshape,
    "Shape": lambda call, x: list(x.shape)[call.get("start", 0) : call.get("end")],
    "Sigmoid": _plain(torch.sigmoid),
    "Slice": _slice,
    "Softmax": _softmax,
    "Softplus": _plain(F.softplus),
    "Split": _split,
    "Sqrt": _plain(torch.sqrt),
    "Squeeze": _squeeze,
    "Sub": _arithmetic(operator.sub),
    "Tanh": _plain(torch.tanh),
    "Transpose": lambda call, x: x.permute(call.get("perm") or list(reversed(range(x.dim())))),
    "Unsqueeze": _unsqueeze,
}
"""By the operator's type, in ONNX's own domain."""

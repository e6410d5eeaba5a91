"""ONNX operators in PyTorch: functions of values, arithmetic, comparisons, reductions."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from qpc.importers.onnx.values import Call, Rule, Value, as_sizes, as_tensor, axes_of

_ALIGNED_SLOPES = 7
"""The opset since which slopes of PRelu broadcast as all else does."""
_LATEST_AXES = 13
"""The opset since which softmax works on one axis."""


def _softmax(call: Call, x: Tensor) -> Tensor:
    """Before opset 13 it works on all axes from one on, as if they were one."""
    function = F.log_softmax if call.kind == "LogSoftmax" else F.softmax
    if call.opset >= _LATEST_AXES:
        return function(x, call.get("axis", -1))
    axis = call.get("axis", 1) % x.dim()
    if axis == x.dim() - 1:
        return function(x, axis)
    return function(x.flatten(axis), axis).reshape(x.shape)


def _clip(call: Call, x: Tensor, low: Value = None, high: Value = None) -> Tensor:
    given = (("min", low), ("max", high))
    ends = [call.get(n) if v is None else float(as_sizes(v)[0]) for n, v in given]
    return x if ends == [None, None] else x.clamp(*ends)


def _cast(call: Call, x: Value) -> Value:
    from onnx import TensorProto

    kinds = {TensorProto.FLOAT: torch.float32, TensorProto.INT64: torch.int64}
    kinds |= {TensorProto.INT32: torch.int32, TensorProto.BOOL: torch.bool}
    kind = kinds.get(call.attributes["to"])
    if not isinstance(x, Tensor):
        whole = kind in (torch.int64, torch.int32) or kind is None
        return x if whole or _depends_on_batch(x) else torch.tensor(x).to(kind)
    if kind is None:
        raise call.refuse(f"the type {call.attributes['to']} is not read")
    return x.to(kind)


def _depends_on_batch(x: Value) -> bool:
    return any(not isinstance(n, int) for n in as_sizes(x))


def _arithmetic(function: Callable[[Any, Any], Any]) -> Rule:
    """Of tensors, or of sizes. axis: in opset 6, where the second operand begins in the first."""

    def run(call: Call, a: Value, b: Value) -> Value:
        if isinstance(a, Tensor) and isinstance(b, Tensor) and "axis" in call.attributes:
            b = b.reshape(*b.shape, *[1] * (a.dim() - call.attributes["axis"] - b.dim()))
        if isinstance(a, Tensor) or isinstance(b, Tensor):
            return function(*(v if isinstance(v, int | float) else as_tensor(v) for v in (a, b)))
        if isinstance(a, float) or isinstance(b, float):
            return torch.tensor(function(a, b))
        whole = operator.floordiv if function is operator.truediv else function
        left, right = as_sizes(a), as_sizes(b)
        count = max(len(left), len(right))
        found = [
            whole(x, y)
            for x, y in zip(left * (count // len(left)), right * (count // len(right)), strict=True)
        ]
        return found if isinstance(a, list) or isinstance(b, list) else found[0]

    return run


def _plain(function: Callable[..., Any]) -> Rule:
    return lambda call, *inputs: function(*inputs)


def _compared(function: Callable[[Any, Any], Any]) -> Rule:
    def run(call: Call, a: Value, b: Value) -> Value:
        if isinstance(a, Tensor) or isinstance(b, Tensor):
            return function(as_tensor(a), as_tensor(b))
        left, right = as_sizes(a), as_sizes(b)
        return torch.tensor([bool(function(x, y)) for x, y in zip(left, right, strict=True)])

    return run


def _where(call: Call, condition: Value, a: Value, b: Value) -> Value:
    """Of sizes, as `Reshape` needs them, or of tensors."""
    known = [not isinstance(v, Tensor) for v in (a, b)]
    if all(known) and not condition.is_floating_point() and condition.dim() < 2:
        left, right, chosen = as_sizes(a), as_sizes(b), as_sizes(condition)
        count = max(len(left), len(right), len(chosen))
        rows = [part * (count // len(part)) for part in (chosen, left, right)]
        return [x if c else y for c, x, y in zip(*rows, strict=True)]
    return torch.where(condition, as_tensor(a), as_tensor(b))


def _several(function: Callable[[Tensor, Tensor], Tensor]) -> Rule:
    return lambda call, *inputs: reduce(function, [as_tensor(v) for v in inputs])


def _mean_of_several(call: Call, *inputs: Tensor) -> Tensor:
    return reduce(torch.add, inputs) / len(inputs)


def _reduced(function: Callable[[Tensor, list[int], bool], Tensor]) -> Rule:
    def run(call: Call, x: Value, axes: Value = None) -> Tensor:
        x = as_tensor(x)
        found = axes_of(call, axes, x.dim())
        return function(x, found, bool(call.get("keepdims", 1))) if found or not x.dim() else x

    return run


def _product(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in sorted(axes, reverse=True):
        x = x.prod(axis, keepdim=keep)
    return x


def _best(function: Callable[..., Tensor]) -> Rule:
    def run(call: Call, x: Tensor) -> Tensor:
        call.require("select_last_index", 0)
        return function(x, call.get("axis", 0), keepdim=bool(call.get("keepdims", 1)))

    return run


def _gelu(call: Call, x: Tensor) -> Tensor:
    return F.gelu(x, approximate=call.get("approximate", "none"))


def _prelu(call: Call, x: Tensor, slope: Tensor) -> Tensor:
    """PyTorch's has one slope, or one for each channel."""
    shape = tuple(slope.shape)
    if slope.numel() == 1:
        return F.prelu(x, slope.reshape(1))
    each = (x.shape[1], *[1] * (x.dim() - 2)) if x.dim() > 1 else ()
    if shape == each or (call.opset < _ALIGNED_SLOPES and shape == each[:1]):
        return F.prelu(x, slope.flatten())
    return torch.where(x < 0, x * slope, x)


def _hard_sigmoid(call: Call, x: Tensor) -> Tensor:
    alpha, beta = call.get("alpha", 0.2), call.get("beta", 0.5)
    if beta == 0.5 and abs(alpha - 1 / 6) < 1e-6:
        return F.hardsigmoid(x)
    made: Tensor = (x * alpha + beta).clamp(0.0, 1.0)
    return made


def _cumulated(call: Call, x: Tensor, axis: Value) -> Tensor:
    call.require("exclusive", 0)
    call.require("reverse", 0)
    return x.cumsum(int(as_sizes(axis)[0]))


def _einsum(call: Call, *inputs: Tensor) -> Tensor:
    return torch.einsum(call.attributes["equation"], *inputs)


def _elu(call: Call, x: Tensor) -> Tensor:
    return F.elu(x, call.get("alpha", 1.0))


def _selu(call: Call, x: Tensor) -> Tensor:
    alpha, gamma = call.get("alpha", _SELU[0]), call.get("gamma", _SELU[1])
    return F.selu(x) if (alpha, gamma) == _SELU else gamma * F.elu(x, alpha)


_SELU = 1.67326319217681884765625, 1.05070102214813232421875

RULES: Mapping[str, Rule] = {
    "Abs": _plain(torch.abs),
    "Acos": _plain(torch.acos),
    "Add": _arithmetic(operator.add),
    "And": _plain(torch.logical_and),
    "ArgMax": _best(torch.argmax),
    "ArgMin": _best(torch.argmin),
    "Asin": _plain(torch.asin),
    "Atan": _plain(torch.atan),
    "Cast": _cast,
    "Ceil": _plain(torch.ceil),
    "Celu": lambda call, x: F.celu(x, call.get("alpha", 1.0)),
    "Clip": _clip,
    "Cos": _plain(torch.cos),
    "CumSum": _cumulated,
    "Div": _arithmetic(operator.truediv),
    "Dropout": lambda call, x, *_: x,
    "Einsum": _einsum,
    "Elu": _elu,
    "Equal": _compared(operator.eq),
    "Erf": _plain(torch.erf),
    "Exp": _plain(torch.exp),
    "Floor": _plain(torch.floor),
    "Gelu": _gelu,
    "Greater": _compared(operator.gt),
    "GreaterOrEqual": _compared(operator.ge),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _plain(F.hardswish),
    "Identity": _plain(lambda x: x),
    "LeakyRelu": lambda call, x: F.leaky_relu(x, call.get("alpha", 0.01)),
    "Less": _compared(operator.lt),
    "LessOrEqual": _compared(operator.le),
    "Log": _plain(torch.log),
    "LogSoftmax": _softmax,
    "Max": _several(torch.maximum),
    "Mean": _mean_of_several,
    "Min": _several(torch.minimum),
    "Mish": _plain(F.mish),
    "Mul": _arithmetic(operator.mul),
    "Neg": _plain(operator.neg),
    "Not": _plain(torch.logical_not),
    "Or": _plain(torch.logical_or),
    "PRelu": _prelu,
    "Pow": _arithmetic(operator.pow),
    "Reciprocal": _plain(torch.reciprocal),
    "ReduceL2": _reduced(lambda x, axes, keep: torch.linalg.vector_norm(x, 2, axes, keep)),
    "ReduceMax": _reduced(lambda x, axes, keep: x.amax(axes, keep)),
    "ReduceMean": _reduced(lambda x, axes, keep: x.mean(axes, keep)),
    "ReduceMin": _reduced(lambda x, axes, keep: x.amin(axes, keep)),
    "ReduceProd": _reduced(_product),
    "ReduceSum": _reduced(lambda x, axes, keep: x.sum(axes, keep)),
    "ReduceSumSquare": _reduced(lambda x, axes, keep: (x * x).sum(axes, keep)),
    "Relu": _plain(torch.relu),
    "Round": _plain(torch.round),
    "Selu": _selu,
    "Sigmoid": _plain(torch.sigmoid),
    "Silu": _plain(F.silu),
    "Sign": _plain(torch.sign),
    "Sin": _plain(torch.sin),
    "Softmax": _softmax,
    "Softplus": _plain(F.softplus),
    "Softsign": _plain(F.softsign),
    "Sqrt": _plain(torch.sqrt),
    "Sub": _arithmetic(operator.sub),
    "Sum": _several(torch.add),
    "Tan": _plain(torch.tan),
    "Tanh": _plain(torch.tanh),
    "Where": _where,
}

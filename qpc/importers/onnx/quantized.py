"""ONNX operators in PyTorch: those that quantize, and those that compute with integers.

The latter, which ONNX Runtime's quantizer writes in its QOperator form, become float operators
between grids, as in the QDQ form.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from qpc.importers.onnx.layers import convolved
from qpc.importers.onnx.values import Call, Rule


def _quantize(call: Call, x: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    call.require("block_size", 0)
    if scale.numel() != 1:
        raise call.refuse("values have one scale")
    _require_as_many(call, scale, zero)
    dtype = zero.dtype if zero is not None else torch.uint8
    point = torch.zeros(1, dtype=torch.int64) if zero is None else zero
    grid = scale, point, *_ends(call, dtype), dtype
    made: Tensor = _foreign().quantize_per_tensor.tensor(x, *grid)
    return made


def _dequantize(call: Call, q: Tensor, scale: Tensor, zero: Tensor | None = None) -> Tensor:
    call.require("block_size", 0)
    _require_as_many(call, scale, zero)
    ends = *_ends(call, q.dtype), q.dtype
    if scale.numel() == 1:
        point = torch.zeros(1, dtype=torch.int64) if zero is None else zero
        one: Tensor = _foreign().dequantize_per_tensor.tensor(q, scale, point, *ends)
        return one
    zeros = torch.zeros(scale.numel(), dtype=torch.int64) if zero is None else zero.long()
    axis = call.get("axis", 1) % q.dim()
    made: Tensor = _foreign().dequantize_per_channel(q, scale, zeros, axis, *ends)
    return made


def _require_as_many(call: Call, scale: Tensor, zero: Tensor | None) -> None:
    if zero is not None and zero.numel() != scale.numel():
        raise call.refuse(f"there are {scale.numel()} scales and {zero.numel()} zero points")


def _ends(call: Call, dtype: torch.dtype) -> tuple[int, int]:
    """The least and the greatest integer, those of the type if no Clip says otherwise."""
    limits = torch.iinfo(dtype)
    low, high = call.get("ends", (limits.min, limits.max))
    return max(low, limits.min), min(high, limits.max)


def _foreign() -> Any:
    importlib.import_module("torch.ao.quantization.fx._decomposed")  # which defines them
    return torch.ops.quantized_decomposed


def _conv(
    call: Call,
    x: Tensor,
    x_scale: Tensor,
    x_zero: Tensor,
    w: Tensor,
    w_scale: Tensor,
    w_zero: Tensor,
    y_scale: Tensor,
    y_zero: Tensor,
    bias: Tensor | None = None,
    sums: Tensor | None = None,
) -> Tensor:
    """QLinearConv; its bias is on the grid of the sums, whose scales are `sums`."""
    real = _dequantize(call, x, x_scale, x_zero)
    weight = _weight(call, w, w_scale, w_zero, axis=0)
    added = None if bias is None else _bias(call, bias, sums)
    return _quantize(call, convolved(call, real, weight, added), y_scale, y_zero)


def _matmul(
    call: Call,
    a: Tensor,
    a_scale: Tensor,
    a_zero: Tensor,
    b: Tensor,
    b_scale: Tensor,
    b_zero: Tensor,
    y_scale: Tensor,
    y_zero: Tensor,
) -> Tensor:
    """QLinearMatMul."""
    left = _dequantize(call, a, a_scale, a_zero)
    made = left @ _weight(call, b, b_scale, b_zero, axis=b.dim() - 1)
    return _quantize(call, made, y_scale, y_zero)


def _gemm(
    call: Call,
    a: Tensor,
    a_scale: Tensor,
    a_zero: Tensor,
    b: Tensor,
    b_scale: Tensor,
    b_zero: Tensor,
    c: Tensor | None = None,
    y_scale: Tensor | None = None,
    y_zero: Tensor | None = None,
    sums: Tensor | None = None,
) -> Tensor:
    """QGemm of ONNX Runtime."""
    call.require("transA", 0)
    call.require("alpha", 1.0)
    turned = bool(call.get("transB", 0))
    left = _dequantize(call, a, a_scale, a_zero)
    right = _weight(call, b, b_scale, b_zero, axis=0 if turned else 1)
    bias = None if c is None else _bias(call, c, sums)
    made = torch.nn.functional.linear(left, right if turned else right.t(), bias)
    return made if y_scale is None else _quantize(call, made, y_scale, y_zero)


def _of_two(function: Callable[[Tensor, Tensor], Tensor]) -> Rule:
    """QLinearAdd and QLinearMul of ONNX Runtime."""

    def run(call: Call, *given: Any) -> Tensor:
        a, b, (scale, zero) = given[:3], given[3:6], given[6:8]
        made = function(_dequantize(call, *a), _dequantize(call, *b))
        return _quantize(call, made, scale, zero)

    return run


def _average(call: Call, x: Tensor, *grids: Any) -> Tensor:
    """QLinearGlobalAveragePool of ONNX Runtime."""
    call.require("channels_last", 0)
    real = _dequantize(call, x, *grids[:2])
    return _quantize(call, real.mean(list(range(2, x.dim())), keepdim=True), *grids[2:])


def _weight(call: Call, w: Tensor, scale: Tensor, zero: Tensor, axis: int) -> Tensor:
    """Integers with a scale for each index of an axis, or one for all."""
    if scale.numel() == 1:
        return _dequantize(call, w, scale, zero)
    ends = torch.iinfo(w.dtype)
    zeros = zero.reshape(-1).long()
    made: Tensor = _foreign().dequantize_per_channel(
        w, scale, zeros, axis, ends.min, ends.max, w.dtype
    )
    return made


def _bias(call: Call, bias: Tensor, scale: Tensor | None) -> Tensor:
    if scale is None:
        raise call.refuse("its scales are no constants")
    return _weight(call, bias, scale, torch.zeros(scale.numel(), dtype=torch.int64), axis=0)


_BIASES = {"QLinearConv": (8, 1, 4, 9), "QGemm": (6, 1, 4, 9)}
"""Where a bias and the scales stand whose product is its own, and where that is put."""


def with_scales_of_sums(call: Call, constants: dict[str, Any]) -> Call:
    """A call that has the scales of its bias among its inputs, too, as a further constant."""
    if call.kind not in _BIASES:
        return call
    bias, first, second, last = _BIASES[call.kind]
    name = call.inputs[bias] if bias < len(call.inputs) else ""
    factors = [constants.get(call.inputs[place]) for place in (first, second)]
    if not name or factors[0] is None or factors[1] is None:
        return call
    made = f"{name}.scale of {call.outputs[0]}"
    constants[made] = (factors[0] * factors[1]).reshape(-1)
    inputs = (*call.inputs, *[""] * (last - len(call.inputs)), made)
    return replace(call, inputs=inputs)


RULES: Mapping[str, Rule] = {
    "DequantizeLinear": _dequantize,
    "QGemm": _gemm,
    "QLinearAdd": _of_two(torch.add),
    "QLinearConv": _conv,
    "QLinearGlobalAveragePool": _average,
    "QLinearMatMul": _matmul,
    "QLinearMul": _of_two(torch.mul),
    "QuantizeLinear": _quantize,
}

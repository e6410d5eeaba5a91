"""ONNX operators in PyTorch: layers, pools and normalization."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from qpc.importers.onnx.values import Call, Rule, few


def _pads(
    call: Call, x: Tensor, kernel: Sequence[int], fill: float = 0.0
) -> tuple[Tensor, list[int]]:
    """Padding that is the same at both ends of each axis, after what is left is done by itself."""
    axes = len(kernel)
    pads = _given_pads(call, x, kernel)
    begins, ends = pads[:axes], pads[axes:]
    if begins == ends:
        return x, begins
    turned = [n for pair in reversed(list(zip(begins, ends, strict=True))) for n in pair]
    return F.pad(x, turned, value=fill), [0] * axes


def _given_pads(call: Call, x: Tensor, kernel: Sequence[int]) -> list[int]:
    """How much is padded at the beginnings and at the ends of axes."""
    axes, way = len(kernel), call.get("auto_pad", "NOTSET")
    if way in ("NOTSET", "VALID"):
        return list(call.get("pads", [0] * 2 * axes))
    if way not in ("SAME_UPPER", "SAME_LOWER"):
        raise call.refuse(f"auto_pad={way!r} is not read")
    strides, ones = call.get("strides", [1] * axes), [1] * axes
    begins, ends = [], []
    reaches = zip(x.shape[2:], kernel, strides, call.get("dilations", ones), strict=True)
    for size, extent, stride, dilation in reaches:
        count = -(-size // stride)
        total = max((count - 1) * stride + (extent - 1) * dilation + 1 - size, 0)
        less, more = total // 2, total - total // 2
        begins.append(less if way == "SAME_UPPER" else more)
        ends.append(more if way == "SAME_UPPER" else less)
    return [*begins, *ends]


def convolved(call: Call, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Conv."""
    axes = weight.dim() - 2
    x, padding = _pads(call, x, weight.shape[2:])
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
    if len(call.outputs) > 1:
        raise call.refuse("its places are asked for, too")
    ones = [1] * axes
    strides, dilations = call.get("strides", ones), call.get("dilations", ones)
    ceil = _as_ceil(call, x, kernel)
    padding = _given_pads(call, x, kernel)[:axes]
    if ceil is None:
        x, padding = _pads(call, x, kernel, float("-inf"))
    run: Any = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}[axes]
    made: Tensor = run(x, kernel, strides, padding, dilations, bool(ceil))
    return made


def _average_pool(call: Call, x: Tensor) -> Tensor:
    kernel = call.attributes["kernel_shape"]
    axes = len(kernel)
    call.require("dilations", [1] * axes)
    strides = call.get("strides", [1] * axes)
    strides = None if strides == kernel else strides  # as PyTorch has it
    counted, ceil = bool(call.get("count_include_pad", 0)), _as_ceil(call, x, kernel)
    run: Any = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}[axes]
    plain = ceil is not None and not (ceil and counted and not call.get("ceil_mode", 0))
    if plain:
        padding = _given_pads(call, x, kernel)[:axes]
        made: Tensor = run(x, kernel, strides, padding, bool(ceil), counted)
        return made
    padded, padding = _pads(call, x, kernel)
    made = run(padded, kernel, strides, padding)
    if counted:
        return made
    there, _ = _pads(call, torch.ones(1, 1, *x.shape[2:]), kernel)
    shares: Tensor = run(there, kernel, strides, padding)
    return made / shares


def _as_ceil(call: Call, x: Tensor, kernel: Sequence[int]) -> bool | None:
    """Whether PyTorch's pools need their ceil mode for a padding; None if they cannot have it.

    More at the ends of axes than at the beginnings often means just that.
    """
    pads, axes, ones = _given_pads(call, x, kernel), len(kernel), [1] * len(kernel)
    if pads[:axes] == pads[axes:]:
        return bool(call.get("ceil_mode", 0))
    if call.get("ceil_mode", 0):
        return None
    strides, dilations = call.get("strides", ones), call.get("dilations", ones)
    sizes = zip(x.shape[2:], kernel, strides, dilations, pads[:axes], pads[axes:], strict=True)
    for size, extent, stride, dilation, begin, end in sizes:
        reach = dilation * (extent - 1) + 1
        wanted = (size + begin + end - reach) // stride + 1
        found = -((size + 2 * begin - reach) // -stride) + 1
        found -= (found - 1) * stride >= size + begin  # none begins behind the image
        fits = begin <= extent // 2 and end >= begin
        if wanted != found or not fits:
            return None
    return True


def _local_response(call: Call, x: Tensor) -> Tensor:
    """LRN: values divided by a power of the sum of squares of the channels around."""
    size, alpha = call.attributes["size"], call.get("alpha", 1e-4)
    channels = x.shape[1]
    around = F.pad((x * x).flatten(2), (0, 0, (size - 1) // 2, size // 2))
    total = sum((around[:, i : i + channels] for i in range(few(call, size))), start=0.0)
    scale = (total * (alpha / size) + call.get("bias", 1.0)) ** call.get("beta", 0.75)
    made: Tensor = x / scale.reshape(x.shape)
    return made


def _batch_norm(call: Call, x: Tensor, gamma: Any, beta: Any, mean: Any, variance: Any) -> Tensor:
    call.require("training_mode", 0)
    return F.batch_norm(x, mean, variance, gamma, beta, eps=call.get("epsilon", 1e-5))


def _instance_norm(call: Call, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    return F.instance_norm(x, weight=scale, bias=bias, eps=call.get("epsilon", 1e-5))


def _group_norm(call: Call, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """Since opset 21 there is a scale for each channel, before one for each group."""
    groups = call.attributes["num_groups"]
    if scale.shape[0] != x.shape[1]:
        each = x.shape[1] // groups
        scale, bias = (t.repeat_interleave(each) for t in (scale, bias))
    return F.group_norm(x, groups, scale, bias, call.get("epsilon", 1e-5))


def _layer_norm(call: Call, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    axis = call.get("axis", -1) % x.dim()
    return F.layer_norm(x, x.shape[axis:], scale, bias, call.get("epsilon", 1e-5))


def _rms_norm(call: Call, x: Tensor, scale: Tensor) -> Tensor:
    axis = call.get("axis", -1) % x.dim()
    return F.rms_norm(x, list(x.shape[axis:]), scale, call.get("epsilon", 1e-5))


RULES: Mapping[str, Rule] = {
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Conv": convolved,
    "ConvTranspose": _conv_transpose,
    "Gemm": _gemm,
    "GlobalAveragePool": lambda call, x: x.mean(list(range(2, x.dim())), keepdim=True),
    "GlobalMaxPool": lambda call, x: x.amax(list(range(2, x.dim())), keepdim=True),
    "GroupNormalization": _group_norm,
    "InstanceNormalization": _instance_norm,
    "LRN": _local_response,
    "LayerNormalization": _layer_norm,
    "MatMul": lambda call, a, b: torch.matmul(a, b),
    "MaxPool": _max_pool,
    "RMSNormalization": _rms_norm,
}

"""Pooling."""

from __future__ import annotations

import math

import numpy as np
from torch.fx import Node

from qpc.backends.litert.exporter import Exporter, Refused, Rule
from qpc.backends.litert.padding import padded_image
from qpc.backends.litert.tables import Kind, Number, Padding, Quantization, Value, byte
from qpc.backends.litert.windows import Window
from qpc.calls import Pair, arguments, aten, qpc_ops

_DEPTHWISE, _POOL = 2, 5  # numbers of their options


def _pooled(to: Exporter, kind: Kind, index: int, window: Window, placed: Padding) -> int:
    batch, *size, channels = to.stored(index).shape
    if placed is Padding.SAME:
        rows = [-(-n // s) for n, s in zip(size, window.stride, strict=True)]
    else:
        ends = zip(size, window.kernel, window.stride, strict=True)
        rows = [(n - k) // s + 1 for n, k, s in ends]
    (down, right), (height, width) = window.stride, window.kernel
    fields: dict[int, Value] = {
        0: byte(placed),
        1: Number(right),
        2: Number(down),
        3: Number(width),
        4: Number(height),
    }
    made = to.like(index, (batch, *rows, channels))
    return to.emit(kind, [index], made, (_POOL, fields))


def _avg_pool2d(to: Exporter, node: Node) -> int:
    """`qpc::avg_pool2d`, which counts the pixels that it pads with."""
    kernel, padding = (Pair().decode(arguments(node)[k]) for k in ("kernel_size", "padding"))
    window = Window(kernel, Pair().decode(arguments(node)["stride"] or kernel))
    index = padded_image(to, to.value(node, "q"), [*padding, *padding])
    made = to.result(node)
    factor = arguments(node)["multiplier"] * math.prod(kernel)
    if made.grid == to.stored(index).grid and math.isclose(factor, 1.0, rel_tol=1e-5):
        return to.bounded(node, _pooled(to, Kind.AVERAGE_POOL_2D, index, window, Padding.VALID))
    return to.clamped(node, _summed(to, node, index, window))


def _summed(to: Exporter, node: Node, index: int, window: Window) -> int:
    """Averages on another grid: a depthwise convolution by ones, which rounds only once.

    Its weights' scale is what makes the sum of a window the result.
    """
    channels = to.stored(index).shape[-1]
    before, after = to.grid(arguments(node)["q"]), to.grid(node)
    scale = float(np.float32(arguments(node)["multiplier"] * after.scale / before.scale))
    grid = Quantization((scale,) * channels, (0,) * channels, 3)
    ones = to.constant(np.ones((1, *window.kernel, channels), np.int8), grid)
    sums = Quantization((scale * before.scale,) * channels, (0,) * channels)
    zeros = to.constant(np.zeros(channels, np.int32), sums)
    (down, right), each = window.stride, Number(1)
    fields: dict[int, Value] = {
        0: byte(Padding.VALID),
        1: Number(right),
        2: Number(down),
        3: each,
        4: to.fused(node),
    }
    made, options = to.result(node), (_DEPTHWISE, fields)
    return to.emit(Kind.DEPTHWISE_CONV_2D, [index, ones, zeros], made, options)


def _max_pool2d(to: Exporter, node: Node) -> int:
    """`qpc::max_pool2d` and `aten.max_pool2d`."""
    given = arguments(node)
    if tuple(Pair().decode(given["dilation"])) != (1, 1):
        raise Refused("it has a dilation")
    kernel, padding = (Pair().decode(given[k]) for k in ("kernel_size", "padding"))
    window = Window(kernel, Pair().decode(given["stride"] or kernel))
    index = to.value(node, "q" if "q" in given else "self")
    size, result = to.stored(index).shape[1:3], to.shape(node)[2:]
    reach = [(n - 1) * s + k for n, s, k in zip(result, window.stride, kernel, strict=True)]
    after = [max(r - n - p, 0) for r, n, p in zip(reach, size, padding, strict=True)]
    pads = [*padding, *after]
    placed = window.placed(size, result, pads)
    if placed is Padding.VALID:
        of = to.stored(index)
        least = int(np.iinfo(np.int8).min) if of.dtype == "int8" else -math.inf
        index = padded_image(to, index, pads, least)
    return _pooled(to, Kind.MAX_POOL_2D, index, window, placed)


RULES: dict[object, Rule] = {
    qpc_ops.avg_pool2d.default: _avg_pool2d,
    qpc_ops.max_pool2d.default: _max_pool2d,
    aten.max_pool2d.default: _max_pool2d,
}

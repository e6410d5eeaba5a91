"""Pooling."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from torch.fx import Node

from qpc.backends.litert.choices import chosen
from qpc.backends.litert.exporter import Exporter, Refused, Rule
from qpc.backends.litert.movement import cut_image
from qpc.backends.litert.padding import padded_image
from qpc.backends.litert.tables import Kind, Number, Padding, Quantization, Value, byte
from qpc.backends.litert.windows import Window
from qpc.calls import Pair, arguments, aten, qpc_ops
from qpc.ops.counted_pooling import window_counts

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
    """Averages on another grid: the multiplier of a sum is what makes it the result."""
    channels = to.stored(index).shape[-1]
    before, after = to.grid(arguments(node)["q"]), to.grid(node)
    factor = arguments(node)["multiplier"] * after.scale / before.scale
    return scaled_windows(to, node, index, window, [factor] * channels)


def scaled_windows(
    to: Exporter, node: Node, index: int, window: Window, factors: Sequence[float]
) -> int:
    """Sums over windows times a real factor for each channel: a depthwise convolution by ones.

    It rounds only once, to the grid of `node`. index: a tensor of the real values that are summed.
    """
    before, channels = to.stored(index).grid, len(factors)
    assert before is not None
    scales = np.array(factors, np.float32)
    ones = np.sign(scales).astype(np.int8)
    scales = np.where(scales == 0, np.float32(1), np.abs(scales))
    grid = Quantization(tuple(scales.tolist()), (0,) * channels, 3)
    weight = np.broadcast_to(ones, (1, *window.kernel, channels))
    products = (scales * np.float32(before.scales[0])).tolist()
    sums = Quantization(tuple(products), (0,) * channels)
    zeros = to.constant(np.zeros(channels, np.int32), sums)
    (down, right), each = window.stride, Number(1)
    fields: dict[int, Value] = {
        0: byte(Padding.VALID),
        1: Number(right),
        2: Number(down),
        3: each,
        4: to.fused(node),
    }
    batch, *size, _ = to.stored(index).shape
    ends = zip(size, window.kernel, window.stride, strict=True)
    made = to.result(node, shape=(batch, *((n - k) // s + 1 for n, k, s in ends), channels))
    inputs = [index, to.constant(weight, grid), zeros]
    return to.emit(Kind.DEPTHWISE_CONV_2D, inputs, made, (_DEPTHWISE, fields))


def _counted_avg_pool2d(to: Exporter, node: Node) -> int:
    """`qpc::counted_avg_pool2d`: one average for each count of values that windows hold.

    All windows are averaged for each of the counts, and a mask picks those that have it.
    """
    given, index = arguments(node), to.value(node, "q")
    sizes = {k: Pair().decode(given[k]) for k in ("kernel_size", "stride", "padding")}
    kernel, stride, padding = sizes.values()
    size, result = to.stored(index).shape[1:3], to.shape(node)[2:]
    modes = given["ceil_mode"], given["count_include_pad"]
    counts = window_counts(size, kernel, stride, padding, *modes)
    factors = {n: 1.0 / n for n in sorted(set(counts.flatten().tolist()), reverse=True)}
    index = padded_image(to, index, reached_padding(size, result, kernel, stride, padding))
    channels, window = to.stored(index).shape[-1], Window(kernel, stride)
    made: int | None = None
    for count, factor in factors.items():
        each = scaled_windows(to, node, index, window, [factor] * channels)
        each = cut_image(to, each, (0, 0), result)
        if made is None:
            made = each
            continue
        mask = to.constant((counts == count).numpy()[None, :, :, None])
        made = chosen(to, node, mask, each, made)
    assert made is not None
    return to.clamped(node, made)


def reached_padding(
    size: Sequence[int],
    result: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
) -> list[int]:
    """Top, left, bottom, right: what is to be around an image so that its windows make a result."""
    reach = [(n - 1) * s + k for n, s, k in zip(result, stride, kernel, strict=True)]
    after = [max(r - n - p, 0) for r, n, p in zip(reach, size, padding, strict=True)]
    return [*padding, *after]


def _max_pool2d(to: Exporter, node: Node) -> int:
    """`qpc::max_pool2d` and `aten.max_pool2d`."""
    given = arguments(node)
    if tuple(Pair().decode(given["dilation"])) != (1, 1):
        raise Refused("it has a dilation")
    kernel, padding = (Pair().decode(given[k]) for k in ("kernel_size", "padding"))
    window = Window(kernel, Pair().decode(given["stride"] or kernel))
    index = to.value(node, "q" if "q" in given else "self")
    size, result = to.stored(index).shape[1:3], to.shape(node)[2:]
    pads = reached_padding(size, result, kernel, window.stride, padding)
    placed = window.placed(size, result, pads)
    if placed is Padding.VALID:
        of = to.stored(index)
        least = int(np.iinfo(np.int8).min) if of.dtype == "int8" else -math.inf
        index = padded_image(to, index, pads, least)
    return _pooled(to, Kind.MAX_POOL_2D, index, window, placed)


RULES: dict[object, Rule] = {
    qpc_ops.avg_pool2d.default: _avg_pool2d,
    qpc_ops.counted_avg_pool2d.default: _counted_avg_pool2d,
    qpc_ops.max_pool2d.default: _max_pool2d,
    aten.max_pool2d.default: _max_pool2d,
}

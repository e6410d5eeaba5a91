"""Operators with windows: pooling, padding and upsampling, with their sizes as numbers."""

from __future__ import annotations

from typing import Any

import torch
from torch._ops import OpOverload
from torch.fx import Node

from qpc.capture.rules.call import Call, Rule, shape_of, table
from qpc.capture.rules.reductions import over_a_stack
from qpc.meta import info

aten = torch.ops.aten


def _adaptive_avg_pool(pool: OpOverload, axes: int) -> Rule:
    """A mean where one value is left of each of the last axes, a pool where windows are equal."""

    def rule(call: Call) -> Node | None:
        source, shape = call.source(), call.shape
        size, out = shape_of(source)[-axes:], shape[-axes:]
        if size == out:
            return source
        rank = len(shape)
        if all(d == 1 for d in out):
            return call.emit(aten.mean.dim, source, list(range(rank - axes, rank)), True)
        kernel = []
        for before, after in zip(size, out, strict=True):
            if not (isinstance(before, int) and isinstance(after, int)) or before % after:
                return None
            kernel.append(before // after)
        return call.emit(pool, source, kernel, kernel)

    return rule


def _avg_pool2d(call: Call) -> Node | None:
    """`ceil_mode` and `count_include_pad` are given only where they make a difference."""
    changed = _window(call)
    ceil = changed.get("ceil_mode", call.args["ceil_mode"])
    if not call.args["count_include_pad"] and not any(_pair(call.args["padding"])) and not ceil:
        changed["count_include_pad"] = True
    if not changed:
        return None
    return call.emit(aten.avg_pool2d.default, *(call.args | changed).values())


def _max_pool2d(call: Call) -> Node | None:
    changed = _window(call) if _pair(call.args["dilation"]) == [1, 1] else {}
    return call.emit(aten.max_pool2d.default, *(call.args | changed).values()) if changed else None


def _window(call: Call) -> dict[str, Any]:
    """What says of a window that rounds up what it reaches, if that can be said in fewer words.

    EfficientNet of the package transformers has pools thousands of pixels wide: as wide as values
    have channels.
    """
    given = call.args
    kernel, padding = _pair(given["kernel_size"]), _pair(given["padding"])
    stride = _pair(given["stride"]) if given["stride"] else kernel
    sizes = [size for size in shape_of(call.source())[-2:] if isinstance(size, int)]
    if not given["ceil_mode"] or len(sizes) < len(kernel):
        return {}
    padded = [size + 2 * p for size, p in zip(sizes, padding, strict=True)]
    least = [min(k, d) for k, d in zip(kernel, padded, strict=True)]
    changed = {} if least == kernel else {"kernel_size": least, "stride": stride}
    floor = [(d - k) // s + 1 for d, k, s in zip(padded, least, stride, strict=True)]
    return changed | ({"ceil_mode": False} if tuple(floor) == call.shape[-2:] else {})


def _amax(call: Call) -> Node | None:
    """The largest value of each channel of an image is a pool over all of it."""
    if (made := over_a_stack(call, call.args["dim"], aten.amax.default)) is not None:
        return made
    source = call.source()
    shape = shape_of(source)
    dims = {d % len(shape) for d in call.args["dim"]}
    dtype = info(source).dtype
    size = [s for s in shape[2:] if isinstance(s, int)]
    if len(shape) != 4 or dims != {2, 3} or len(size) != 2 or dtype is not torch.float32:
        return None
    pooled = call.emit(aten.max_pool2d.default, source, size, size)
    if call.args["keepdim"] or not isinstance(shape[1], int):
        return pooled if call.args["keepdim"] else None
    return call.emit(aten.reshape.default, pooled, [-1, shape[1]])


def _adaptive_max_pool2d(call: Call) -> list[Node] | None:
    """A pool with equal windows, unless somebody wants to know where the largest values are."""
    source, sizes = call.source(), shape_of(call.source())[-2:]
    wanted = _pair(call.args["output_size"])
    if any(item.args[1] != 0 for item in call.node.users):
        return None
    kernel = []
    for before, after in zip(sizes, wanted, strict=True):
        if not isinstance(before, int) or before % after:
            return None
        kernel.append(before // after)
    return [call.emit(aten.max_pool2d.default, source, kernel, kernel)]


def _upsample(target: OpOverload) -> Rule:
    """Output sizes as numbers; scale factors stay, since positions follow from them if given."""

    def rule(call: Call) -> Node | None:
        sizes = [size for size in call.shape[2:] if isinstance(size, int)]
        if len(sizes) < len(call.shape) - 2:
            return None
        scales = call.args["scale_factors"] or [None, None]
        corners = [call.args["align_corners"]] if "align_corners" in call.args else []
        return call.emit(target, call.source("input"), sizes, *corners, *scales)

    return rule


def _pad(call: Call) -> Node | None:
    if not any(call.args["pad"]):
        return call.source()
    if call.args["mode"] != "constant":
        return None
    return call.emit(
        aten.constant_pad_nd.default, call.source(), call.args["pad"], call.args["value"] or 0.0
    )


def _named_padding(target: OpOverload) -> Rule:
    """'same' and 'valid' as numbers, with an explicit pad where 'same' is uneven."""

    def rule(call: Call) -> Node | None:
        source, mode = call.source("input"), call.args["padding"]
        kernel = [k for k in shape_of(call.args["weight"])[2:] if isinstance(k, int)]
        dilation = [int(d) for d in call.args["dilation"]]
        dilation *= len(kernel) // len(dilation)
        reach = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        total = reach if mode == "same" else [0] * len(kernel)
        if any(t % 2 for t in total):
            before_after = [p for t in reversed(total) for p in (t // 2, t - t // 2)]
            source = call.emit(aten.constant_pad_nd.default, source, before_after, 0.0)
            total = [0] * len(kernel)
        return call.emit(
            target,
            source,
            call.args["weight"],
            call.args["bias"],
            call.args["stride"],
            [t // 2 for t in total],
            call.args["dilation"],
            call.args["groups"],
        )

    return rule


def _pair(value: Any) -> list[int]:
    numbers = [value] if isinstance(value, int) else list(value)
    return [numbers[0], numbers[-1]]


RULES = table(
    (_adaptive_avg_pool(aten.avg_pool1d.default, 1), "adaptive_avg_pool1d.default"),
    (_adaptive_avg_pool(aten.avg_pool2d.default, 2), "adaptive_avg_pool2d.default"),
    (_adaptive_avg_pool(aten.avg_pool3d.default, 3), "adaptive_avg_pool3d.default"),
    (_adaptive_max_pool2d, "adaptive_max_pool2d.default"),
    (_avg_pool2d, "avg_pool2d.default"),
    (_max_pool2d, "max_pool2d.default"),
    (_amax, "amax.default"),
    (_upsample(aten.upsample_nearest2d.default), "upsample_nearest2d.vec"),
    (_upsample(aten._upsample_nearest_exact2d.default), "_upsample_nearest_exact2d.vec"),
    (_upsample(aten.upsample_bilinear2d.default), "upsample_bilinear2d.vec"),
    (_pad, "pad.default"),
    (_named_padding(aten.conv1d.default), "conv1d.padding"),
    (_named_padding(aten.conv2d.default), "conv2d.padding"),
    (_named_padding(aten.conv3d.default), "conv3d.padding"),
)

"""ONNX operators in PyTorch: what moves values, and what shapes are computed with."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import torch
from torch import Tensor
from torch.nn import functional as F

from qpc.importers.onnx.values import Call, Rule, Value, as_sizes, as_tensor, axes_of, few


def _reshape(call: Call, x: Value, shape: Value = None) -> Value:
    if not isinstance(x, Tensor):
        whole = as_sizes(shape)
        return as_sizes(x) if whole else as_sizes(x)[0]
    wanted = as_sizes(shape) if shape is not None else call.attributes["shape"]
    if call.get("allowzero", 0):
        return x.reshape(wanted)
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
    if places.dim() == 0 and not isinstance(indices, Tensor):
        return x.select(axis, int(places))
    size = x.shape[axis]
    places = torch.where(places < 0, places + size, places).long()
    if places.dim() == 1:
        return x.index_select(axis, places)
    taken = x.index_select(axis, places.flatten())
    return taken.reshape(*x.shape[:axis], *places.shape, *x.shape[axis + 1 :])


def _gather_elements(call: Call, x: Tensor, indices: Tensor) -> Tensor:
    axis = call.get("axis", 0)
    return x.gather(axis, torch.where(indices < 0, indices + x.shape[axis], indices))


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
        if isinstance(x, list):
            x = x[slice(start, end, step)]
            continue
        axis %= x.dim()
        if step < 0:
            size = x.shape[axis]
            if not isinstance(size, int):
                raise call.refuse("it goes backwards along the batch")
            first, behind, _ = slice(start, end, step).indices(size)
            x = x.flip(axis)
            start, end, step = size - 1 - first, size - 1 - behind, -step
        x = x[(slice(None),) * axis + (slice(start, end, step),)]
    return x


def _split(call: Call, x: Value, sizes: Value = None) -> Value:
    axis, count = call.get("axis", 0), len(call.outputs)
    given = as_sizes(sizes) if sizes is not None else call.get("split")
    if isinstance(x, list):
        x = torch.tensor(x)
    if given:
        return x.split(given, axis)
    each = -(-x.shape[axis] // count)  # the last piece may be smaller
    return x.split(each, axis)


def _pad(
    call: Call, x: Tensor, pads: Value = None, fill: Value = None, axes: Value = None
) -> Tensor:
    modes = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}
    if (mode := modes.get(call.get("mode", "constant"))) is None:
        raise call.refuse(f"mode={call.get('mode')!r} is not read")
    found = as_sizes(pads) if pads is not None else call.attributes["pads"]
    half, rank = len(found) // 2, x.dim()
    chosen = axes_of(call, axes, rank)
    both = dict(zip(chosen, zip(found[:half], found[half:], strict=True), strict=True))
    turned = [n for axis in reversed(range(rank)) for n in both.get(axis, (0, 0))]
    if mode != "constant":
        first = min((axis for axis in both if any(both[axis])), default=rank)
        last = max(rank - first, rank - 2)  # axes that PyTorch pads: at most three, behind another
        if last > min(rank - 1, 3):
            raise call.refuse("it pads the batch or the channels by values")
        return F.pad(x, turned[: 2 * last], mode=mode)
    value = call.get("value", 0.0) if fill is None else float(as_sizes(fill)[0])
    while turned[-2:] == [0, 0]:
        turned = turned[:-2]
    return F.pad(x, turned, value=value) if turned else x


def _constant_of_shape(call: Call, shape: Value) -> Value:
    from onnx import numpy_helper

    value = torch.zeros(1)
    if "value" in call.attributes:
        value = torch.from_numpy(numpy_helper.to_array(call.attributes["value"]).copy())
    sizes = as_sizes(shape)
    if len(sizes) == 1 and value.dtype is torch.int64:
        return [int(value)] * few(call, sizes[0])
    return value.reshape(()).expand(sizes).clone()


def _range(call: Call, start: Value, limit: Value, step: Value) -> Value:
    ends = [as_sizes(v)[0] for v in (start, limit, step)]
    if all(isinstance(v, int) for v in ends) and ends[2]:
        few(call, len(range(*ends)))
    return torch.arange(*ends)


def _expand(call: Call, x: Value, shape: Value) -> Value:
    sizes = as_sizes(shape)
    if isinstance(x, list):
        x = torch.tensor(x)
    return x.expand(torch.broadcast_shapes(x.shape, sizes))


def _tile(call: Call, x: Value, repeats: Value) -> Value:
    times = as_sizes(repeats)
    if isinstance(x, list):
        few(call, times[0] * len(x))
        return x * times[0]
    return x.repeat(times)


def _flatten(call: Call, x: Tensor) -> Tensor:
    axis = call.get("axis", 1)
    if axis == 1 and x.dim() > 1:
        return x.flatten(1)
    axis = axis % x.dim() if axis != x.dim() else axis
    return x.reshape(prod(x.shape[:axis]), -1)


def _depth_to_space(call: Call, x: Tensor) -> Tensor:
    """Channels as [block, block, channels], or as PyTorch has them: [channels, block, block]."""
    block = call.attributes["blocksize"]
    if call.get("mode", "DCR") == "DCR":
        each = x.shape[1] // block**2
        x = x.unflatten(1, (block**2, each)).transpose(1, 2).flatten(1, 2)
    return F.pixel_shuffle(x, block)


def _space_to_depth(call: Call, x: Tensor) -> Tensor:
    """PyTorch's has the channels in front, ONNX's the places in a block."""
    block = call.attributes["blocksize"]
    blocks: Tensor = F.pixel_unshuffle(x, block).unflatten(1, (x.shape[1], block**2))
    return blocks.transpose(1, 2).flatten(1, 2)


def _resize(
    call: Call, x: Tensor, region: Value = None, scales: Value = None, sizes: Value = None
) -> Tensor:
    """Images by the ways that PyTorch has."""
    if call.opset < _RESIZE_OF_REGIONS:
        region, scales = None, region
    mode, way = call.get("mode", "nearest"), call.get(_COORDINATES, "half_pixel")
    if call.kind == "Upsample" or call.opset < _RESIZE_OF_REGIONS:
        way, scales = "asymmetric", call.get("scales", scales)
    size = as_sizes(sizes)[2:] if sizes is not None else None
    factors = None
    if size is None:
        given = as_sizes(scales) if scales is not None else []
        if given[:2] != [1, 1]:
            raise call.refuse("it resizes the batch or the channels")
        factors = tuple(float(f) for f in given[2:])
        size = [int(n * f) for n, f in zip(x.shape[2:], factors, strict=True)]
    call.require("exclude_outside", 0)
    call.require("antialias", 0)
    rounding = call.get("nearest_mode", "round_prefer_floor")
    linear = {1: "linear", 2: "bilinear", 3: "trilinear"}.get(x.dim() - 2, "")
    if mode == "nearest" and (way, rounding) == ("asymmetric", "floor"):
        return F.interpolate(x, size, mode="nearest")
    if mode == "nearest" and call.opset < _RESIZE_OF_REGIONS:
        return F.interpolate(x, size, mode="nearest")
    if mode == "nearest" and way == "half_pixel" and rounding.startswith("round_prefer"):
        return F.interpolate(x, size, mode="nearest-exact")
    whole = all(n % m == 0 for n, m in zip(size, x.shape[2:], strict=True))
    if mode == "nearest" and way == "asymmetric" and whole and rounding.endswith("floor"):
        return F.interpolate(x, size, mode="nearest-exact")
    if mode == "linear" and way in ("half_pixel", "pytorch_half_pixel"):
        return F.interpolate(x, size, mode=linear, align_corners=False)
    if mode == "linear" and way == "align_corners":
        return F.interpolate(x, size, mode=linear, align_corners=True)
    raise call.refuse(f"mode={mode!r} at {way!r} places ({rounding!r}) is not read")


_RESIZE_OF_REGIONS = 11
"""The opset since which Resize has a region as its second input, and says where it samples."""
_COORDINATES = "coordinate_transformation_mode"


RULES: Mapping[str, Rule] = {
    "Concat": _concat,
    "ConstantOfShape": _constant_of_shape,
    "DepthToSpace": _depth_to_space,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "Pad": _pad,
    "Range": _range,
    "Reshape": _reshape,
    "Resize": _resize,
    "Shape": lambda call, x: list(x.shape)[call.get("start", 0) : call.get("end")],
    "Size": lambda call, x: prod(x.shape),
    "Slice": _slice,
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": lambda call, x: x.permute(call.get("perm") or list(reversed(range(x.dim())))),
    "Unsqueeze": _unsqueeze,
    "Upsample": _resize,
}

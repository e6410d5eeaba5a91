"""ATen operators that only move integers: new axes, new order, or a copy.

Logical axes of the call become physical axes through the value's order; what moves no data changes
only the order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch

from qpc.backends.common.orders import NHWC, Order, identity, permuted
from qpc.backends.common.traits import Traits
from qpc.backends.tvm.lowering import copies
from qpc.backends.tvm.lowering.call import Call, KernelRule, Lower
from qpc.backends.tvm.lowering.emitter import Emitter, kernel_type
from qpc.backends.tvm.lowering.layout import Slice, Value, plan_reshape
from qpc.calls import aten

_CHANNELS = 1  # the logical axis of images


def reshape(emit: Emitter, value: Value, shape: tuple[int, ...]) -> Value:
    """The elements in logical order, under another shape."""
    plan = plan_reshape(value.shape, value.order, shape)
    ready = emit.stored_as(value, plan.stored)
    expr = emit.view(ready.expr, permuted(shape, plan.order))
    return Value(expr, shape, value.dtype, plan.order)


def with_rank(emit: Emitter, value: Value, rank: int) -> Value:
    """Leading axes of size 1 until there are `rank` of them, as broadcasting adds them."""
    extra = rank - len(value.shape)
    if extra == 0:
        return value
    order = (*range(extra), *(axis + extra for axis in value.order))
    shape = (*(1,) * extra, *value.shape)
    return Value(emit.view(value.expr, permuted(shape, order)), shape, value.dtype, order)


def _reshape(emit: Emitter, call: Call) -> Value:
    args, shape = call.args, call.shape
    return reshape(emit, args["self"], shape)


def _same(emit: Emitter, call: Call) -> Value:
    return _tensor(call.args)


def _permute(emit: Emitter, call: Call) -> Value:
    args, shape = call.args, call.shape
    value = _tensor(args)
    return value.with_axes(tuple(d % len(shape) for d in args["dims"]))


def _transpose(emit: Emitter, call: Call) -> Value:
    args, shape = call.args, call.shape
    order = list(identity(len(shape)))
    first, second = args["dim0"] % len(shape), args["dim1"] % len(shape)
    order[first], order[second] = order[second], order[first]
    return _tensor(args).with_axes(tuple(order))


def _slice(emit: Emitter, call: Call) -> Value | Slice:
    args, shape = call.args, call.shape
    value: Value | Slice = args["self"]
    axis = args["dim"] % len(shape)
    start = slice(args["start"], args["end"], args["step"]).indices(value.shape[axis])[0]
    if shape == value.shape:
        return value
    starts, first = {axis: start}, 0
    if isinstance(value, Slice):
        first = value.first
        starts[_CHANNELS] = starts.get(_CHANNELS, 0) + first
        value = value.whole
    channels = value.order == NHWC and axis == _CHANNELS and args["step"] == 1
    if channels and value.dtype in (torch.uint8, torch.int8) and 0 not in shape:
        return Slice(value, starts[_CHANNELS], shape)
    return _strided(emit, value, starts, {axis: args["step"]}, shape)


def _select(emit: Emitter, call: Call) -> Value:
    args, shape = call.args, call.shape
    value = args["self"]
    axis = args["dim"] % len(value.shape)
    start = args["index"] % value.shape[axis]
    kept = (*shape[:axis], 1, *shape[axis:])
    return reshape(emit, _strided(emit, value, {axis: start}, {}, kept), shape)


def _flip(emit: Emitter, call: Call) -> Value:
    args, shape = call.args, call.shape
    axes = [d % len(shape) for d in args["dims"]]
    last = {a: shape[a] - 1 for a in axes}
    return _strided(emit, args["self"], last, dict.fromkeys(axes, -1), shape)


def _expand(emit: Emitter, call: Call) -> Value:
    args, shape = call.args, call.shape
    value = with_rank(emit, args["self"], len(shape))
    repeated = {a: 0 for a, size in enumerate(shape) if value.shape[a] != size}
    return _strided(emit, value, {}, repeated, shape)


def _pad(emit: Emitter, call: Call) -> Value:
    args, shape = call.args, call.shape
    value, amounts = _tensor(args), args["pad"]
    before, after = [0] * len(shape), [0] * len(shape)
    for i in range(len(amounts) // 2):
        before[-1 - i], after[-1 - i] = amounts[2 * i], amounts[2 * i + 1]
    order: Order = value.order
    movement = copies.pad(
        kernel_type(value), permuted(before, order), permuted(after, order), int(args["value"])
    )
    return replace(value, expr=emit.move(movement, [value]), shape=shape)


def _shuffled(
    emit: Emitter, value: Value, apart: tuple[int, ...], order: Order, shape: tuple[int, ...]
) -> Value:
    """Split axes, permute them, and join them again."""
    return reshape(emit, reshape(emit, value, apart).with_axes(order), shape)


def _pixel_shuffle(emit: Emitter, call: Call) -> Value:
    args, shape = call.args, call.shape
    *outer, _, height, width = args["self"].shape
    factor, rank = args["upscale_factor"], len(outer)
    apart = (*outer, shape[-3], factor, factor, height, width)
    order = (*range(rank), *(rank + axis for axis in (0, 3, 1, 4, 2)))
    return _shuffled(emit, args["self"], apart, order, shape)


def _pixel_unshuffle(emit: Emitter, call: Call) -> Value:
    args, shape = call.args, call.shape
    *outer, channels, _, _ = args["self"].shape
    factor, rank = args["downscale_factor"], len(outer)
    apart = (*outer, channels, shape[-2], factor, shape[-1], factor)
    order = (*range(rank), *(rank + axis for axis in (0, 2, 4, 1, 3)))
    return _shuffled(emit, args["self"], apart, order, shape)


def _channel_shuffle(emit: Emitter, call: Call) -> Value:
    args, shape = call.args, call.shape
    batch, channels, *rest = shape
    apart = (batch, args["groups"], channels // args["groups"], *rest)
    order = (0, 2, 1, *range(3, len(apart)))
    return _shuffled(emit, args["self"], apart, order, shape)


def _roll(emit: Emitter, call: Call) -> Value:
    args, shape = call.args, call.shape
    value, dims, shifts = _tensor(args), list(args["dims"]), list(args["shifts"])
    if not dims:  # rolls the flattened tensor
        flat = reshape(emit, value, (size_of(value),))
        movement = copies.roll(kernel_type(flat), {0: shifts[0]})
        return reshape(emit, replace(flat, expr=emit.move(movement, [flat])), shape)
    physical: dict[int, int] = {}
    for axis, shift in zip(dims, shifts, strict=True):
        at = value.order.index(axis % len(shape))
        physical[at] = physical.get(at, 0) + shift
    movement = copies.roll(kernel_type(value), physical)
    return replace(value, expr=emit.move(movement, [value]))


def _strided(
    emit: Emitter,
    value: Value,
    starts: Mapping[int, int],
    steps: Mapping[int, int],
    shape: tuple[int, ...],
) -> Value:
    """Every `steps[axis]`-th element from `starts[axis]` on; `shape` is the logical result."""
    if shape == value.shape and not any(starts.values()) and set(steps.values()) <= {1}:
        return value
    movement = copies.strided_slice(
        kernel_type(value),
        [starts.get(axis, 0) for axis in value.order],
        [steps.get(axis, 1) for axis in value.order],
        permuted(shape, value.order),
    )
    return replace(value, expr=emit.move(movement, [value]), shape=shape)


def _tensor(args: Mapping[str, Any]) -> Value:
    """The tensor that is moved."""
    value = args.get("self", args.get("input"))
    assert isinstance(value, Value)
    return value


def size_of(value: Value) -> int:
    """Number of elements."""
    return int(torch.Size(value.shape).numel())


_MOVES: dict[object, Lower] = {
    **dict.fromkeys(
        (
            aten.reshape.default,
            aten.view.default,
            aten._unsafe_view.default,
            aten.flatten.using_ints,
            aten.unflatten.int,
            aten.squeeze.default,
            aten.squeeze.dim,
            aten.squeeze.dims,
            aten.unsqueeze.default,
        ),
        _reshape,
    ),
    **dict.fromkeys(
        (
            aten.alias.default,
            aten.clone.default,
            aten.contiguous.default,
            aten.detach.default,
            aten.dropout.default,
        ),
        _same,
    ),
    aten.permute.default: _permute,
    aten.transpose.int: _transpose,
    aten.slice.Tensor: _slice,
    aten.select.int: _select,
    aten.flip.default: _flip,
    aten.expand.default: _expand,
    aten.constant_pad_nd.default: _pad,
    aten.roll.default: _roll,
    aten.pixel_shuffle.default: _pixel_shuffle,
    aten.pixel_unshuffle.default: _pixel_unshuffle,
    aten.channel_shuffle.default: _channel_shuffle,
}

RULES: dict[object, KernelRule] = {
    target: KernelRule(lower, Traits(moves=True)) for target, lower in _MOVES.items()
}

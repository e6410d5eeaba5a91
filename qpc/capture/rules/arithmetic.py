"""Arithmetic and clamps: one overload each, tensors first."""

from __future__ import annotations

import torch
from torch._ops import OpOverload
from torch.fx import Node
from torch.fx.node import Argument

from qpc.capture.rules.call import Call, Rule, shape_of, table
from qpc.capture.rules.filled import filled_with, number_in
from qpc.meta import info

aten = torch.ops.aten


def _clamp(lo: str | float | None, hi: str | float | None) -> Rule:
    def rule(call: Call) -> Node | None:
        low = call.args[lo] if isinstance(lo, str) else lo
        high = call.args[hi] if isinstance(hi, str) else hi
        return call.emit(aten.clamp.default, call.source(), low, high)

    return rule


def _binary(target: OpOverload, *, swap: bool = False) -> Rule:
    """add, sub and their scalar and reversed spellings; alpha, a factor of b, is multiplied out."""

    def rule(call: Call) -> Node | None:
        given = call.args["self"], call.args["other"]
        a, b = _numbers(call, *given)
        unchanged = (a, b) == given
        if swap:
            a, b = b, a
        alpha = call.args.get("alpha", 1)
        if call.target is target and alpha == 1 and unchanged:
            return None
        if alpha != 1:
            b = call.emit(aten.mul.Tensor, b, alpha) if isinstance(b, Node) else b * alpha
        if isinstance(a, Node):
            return call.emit(target, a, b)
        if target is aten.sub.Tensor:  # c - x = (-x) + c: core form has tensors first
            return call.emit(aten.add.Tensor, call.emit(aten.neg.default, b), a)
        return call.emit(target, b, a)

    return rule


def _numbers(call: Call, a: Argument, b: Argument) -> tuple[Argument, Argument]:
    """Both operands, where one of the two is a number if that fills all of a tensor.

    As in a sum that begins with zeros. A quotient keeps the tensor that it divides.
    """
    divides = call.target.overloadpacket in (aten.div, aten.divide, aten.true_divide)
    if (number := _filling(call, b, a)) is not None:
        return a, number
    if not divides and (number := _filling(call, a, b)) is not None:
        return number, b
    return a, b


def _filling(call: Call, value: Argument, other: Argument) -> int | float | None:
    """The number that fills `value`, if the result is as it is without its shape and type."""
    if not isinstance(value, Node) or not isinstance(other, Node):
        return None
    about = info(other)  # without a shape, it is a size that the batch decides
    alike = about.shape == call.shape and about.dtype == info(call.node).dtype
    return filled_with(call.gm, value) if alike else None


def _random_slope(call: Call) -> Node | None:
    """A leaky rectifier whose slopes are random in training, and at inference their mean."""
    if call.args["training"]:
        return None
    slope = (call.args["lower"] + call.args["upper"]) / 2
    return call.emit(aten.leaky_relu.default, call.source(), slope)


def _add_product(call: Call) -> Node | None:
    """`a + value * b * c`, where the last two may also be a quotient."""
    divides = call.target is aten.addcdiv.default
    first, second = call.source("tensor1"), call.source("tensor2")
    value = call.args["value"]
    made = call.emit(aten.div.Tensor if divides else aten.mul.Tensor, first, second)
    if value != 1:
        made = call.emit(aten.mul.Tensor, made, value)
    return call.emit(aten.add.Tensor, made, call.source())


def _bounded(target: OpOverload) -> Rule:
    """The larger or smaller of two values, of which one may be a number: a clamp."""

    def rule(call: Call) -> Node | None:
        given = call.source(), call.source("other")
        for value, bound in (given, given[::-1]):
            number = number_in(call.gm, bound)
            alike = shape_of(value) == call.shape and info(value).dtype is info(call.node).dtype
            if number is not None and alike:
                ends = (number, None) if target is aten.maximum.default else (None, number)
                return call.emit(aten.clamp.default, value, *ends)
        return None if call.target is target else call.emit(target, *given)

    return rule


def _between(call: Call) -> Node:
    """A weighted mean of two values: the one nearer to it, and a part of the way to the other."""
    first, other, weight = call.source(), call.source("end"), call.args["weight"]
    near, back = first, not isinstance(weight, Node) and weight >= 0.5
    if back:
        near, weight = other, weight - 1
    way = call.emit(aten.sub.Tensor, other, first)
    return call.emit(aten.add.Tensor, near, call.emit(aten.mul.Tensor, way, weight))


def _gate(call: Call) -> Node | None:
    """The gated linear unit: half of an axis times the sigmoid of the other half."""
    source = call.source()
    shape = shape_of(source)
    axis = int(call.args["dim"]) % len(shape)
    size = shape[axis]
    if not isinstance(size, int):
        return None
    half = size // 2
    value = call.emit(aten.slice.Tensor, source, axis, 0, half, 1)
    gate = call.emit(aten.slice.Tensor, source, axis, half, size, 1)
    return call.emit(aten.mul.Tensor, value, call.emit(aten.sigmoid.default, gate))


def _native_batch_norm(call: Call) -> list[Node]:
    """The decomposed spelling, which also returns statistics that nobody reads at inference."""
    names = ("input", "weight", "bias", "running_mean", "running_var")
    given = [call.args[name] for name in names]
    ends = (False, call.args["momentum"], call.args["eps"], False)
    return [call.emit(aten.batch_norm.default, *given, *ends)]


def _rename(target: OpOverload) -> Rule:
    def rule(call: Call) -> Node | None:
        return call.emit(target, *call.args.values())

    return rule


def _fill(call: Call) -> Node | None:
    """A choice between a value and a number: the number is written where a mask says so."""
    given, other = dict(call.args), call.target is not aten.where.ScalarSelf
    if call.target is aten.where.self:
        numbers = {name: number_in(call.gm, given[name]) for name in ("self", "other")}
        if (numbers["self"] is None) is (numbers["other"] is None):
            return None
        other = numbers["self"] is None
        given.update((name, number) for name, number in numbers.items() if number is not None)
    value, number = (given["self"], given["other"]) if other else (given["other"], given["self"])
    if shape_of(value) != call.shape or info(value).dtype != info(call.node).dtype:
        return None
    mask = given["condition"]
    if other:
        mask = call.emit(aten.logical_not.default, mask)
    return call.emit(aten.masked_fill.Scalar, value, mask, number)


RULES = table(
    (_clamp(0.0, 6.0), "relu6.default"),
    (_clamp("min_val", "max_val"), "hardtanh.default"),
    (_clamp("min", None), "clamp_min.default"),
    (_clamp(None, "max"), "clamp_max.default"),
    (_clamp("min", "max"), "clip.default"),
    (_binary(aten.add.Tensor), "add.Tensor add.Scalar"),
    (_binary(aten.sub.Tensor), "sub.Tensor sub.Scalar"),
    (_binary(aten.sub.Tensor, swap=True), "rsub.Tensor rsub.Scalar"),
    (_binary(aten.mul.Tensor), "mul.Tensor mul.Scalar multiply.Tensor"),
    (_binary(aten.div.Tensor), "div.Tensor div.Scalar divide.Tensor true_divide.Tensor"),
    (_add_product, "addcmul.default addcdiv.default"),
    (_bounded(aten.maximum.default), "maximum.default max.other"),
    (_bounded(aten.minimum.default), "minimum.default min.other"),
    (_between, "lerp.Scalar lerp.Tensor"),
    (_gate, "glu.default"),
    (_fill, "where.ScalarOther where.ScalarSelf where.self"),
    (_native_batch_norm, "_native_batch_norm_legit_no_training.default"),
    (_random_slope, "rrelu.default"),
    (
        _rename(aten.dropout.default),
        "feature_dropout.default alpha_dropout.default feature_alpha_dropout.default",
    ),
)

"""Functions of one value at a time, of floats."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch.fx import Node

from qpc.calls import arguments, aten
from qpc.errors import UnsupportedOpError
from qpc.exporting.onnx.exporter import Exporter, Rule, clip
from qpc.exporting.onnx.floats import functions as forms
from qpc.exporting.onnx.floats.functions import (
    Form,
    chain,
    chosen,
    number,
    operator,
    times_itself,
    with_number,
)
from qpc.types import dtype_name


def _of_one(form: Form) -> Callable[[Exporter, Node], str]:
    """Of float32, or of what becomes float32."""

    def rule(to: Exporter, node: Node) -> str:
        dtype = to.type(node).dtype
        if dtype != torch.float32:
            raise UnsupportedOpError(f"no ONNX form for {node.target} of {dtype}", node=node)
        return form(to, to.operand(node.all_input_nodes[0], dtype))

    return rule


def _with_arguments(form: object, *names: str) -> Callable[[Exporter, Node], str]:
    """A form that takes some of the call's arguments as well."""

    def rule(to: Exporter, node: Node) -> str:
        given = arguments(node)
        numbers = [to.number(given[name]) for name in names]
        assert callable(form)
        return _of_one(lambda exporter, name: form(exporter, name, *numbers))(to, node)

    return rule


def _same_kind(kind: str) -> Rule:
    """Of integers, too."""
    return lambda to, node: to.emit(kind, [to.of(node.all_input_nodes[0])])


def _gelu(to: Exporter, node: Node) -> str:
    wanted = arguments(node)["approximate"]
    return _of_one(forms.gelu_tanh if wanted == "tanh" else forms.gelu)(to, node)


def _leaky_relu(to: Exporter, name: str, slope: float) -> str:
    return to.emit("LeakyRelu", [name], alpha=float(slope))


def _prelu(to: Exporter, node: Node) -> str:
    """`aten.prelu`: a slope for all, or one for each index of axis 1."""
    given = arguments(node)
    weight, rank = to.value(node, "weight"), len(to.shape(node))
    if to.shape(given["weight"]) != (1,) and rank > 2:
        weight = to.reshaped(weight, (-1, *[1] * (rank - 2)))
    return to.emit("PRelu", [to.value(node, "self"), weight])


def _greater(value: float) -> Form:
    def form(to: Exporter, name: str) -> str:
        return to.emit("Greater", [name, number(to, value)])

    return form


def _softshrink(to: Exporter, name: str, lambd: float) -> str:
    return to.emit("Shrink", [name], lambd=float(lambd), bias=float(lambd))


def _hardshrink(to: Exporter, name: str, lambd: float) -> str:
    return to.emit("Shrink", [name], lambd=float(lambd), bias=0.0)


def _threshold(to: Exporter, name: str, threshold: float, value: float) -> str:
    return chosen(_greater(threshold), value)(to, name)


def _clamp(to: Exporter, node: Node) -> str:
    """`aten.clamp`, of integers too."""
    given, dtype = arguments(node), to.type(node).dtype
    if dtype == torch.float32:
        return _with_arguments(clip, "min", "max")(to, node)
    ends = ["" if given[end] is None else to.operand(given[end], dtype) for end in ("min", "max")]
    return to.emit("Clip", [to.operand(given["self"], dtype), *ends])


def _clip_above(to: Exporter, name: str, high: float) -> str:
    return clip(to, name, None, high)


def _clamp_by_tensors(to: Exporter, node: Node) -> str:
    """`aten.clamp.Tensor`."""
    given, dtype = arguments(node), to.type(node).dtype
    name = to.operand(given["self"], dtype)
    for kind, end in (("Max", given["min"]), ("Min", given["max"])):
        if end is not None:
            name = to.emit(kind, [name, to.operand(end, dtype)])
    return name


def _filled(value: float | None) -> Rule:
    """A tensor of one number."""

    def rule(to: Exporter, node: Node) -> str:
        given, found = arguments(node), to.type(node)
        number = to.number(given["fill_value"]) if value is None else value
        constant = to.constant(np.array(number, dtype_name(found.dtype)))
        return to.emit("Expand", [constant, to.extents(found.shape)])

    return rule


def _to_dtype(to: Exporter, node: Node) -> str:
    source = node.all_input_nodes[0]
    return to.cast(to.of(source), to.type(node).dtype, to.type(source).dtype)


_SAME_NAME = {
    aten.sigmoid.default: "Sigmoid",
    aten.tanh.default: "Tanh",
    aten.exp.default: "Exp",
    aten.log.default: "Log",
    aten.sqrt.default: "Sqrt",
    aten.erf.default: "Erf",
    aten.reciprocal.default: "Reciprocal",
    aten.floor.default: "Floor",
    aten.ceil.default: "Ceil",
    aten.round.default: "Round",
    aten.sin.default: "Sin",
    aten.cos.default: "Cos",
    aten.tan.default: "Tan",
    aten.atan.default: "Atan",
    aten.asin.default: "Asin",
    aten.acos.default: "Acos",
    aten.sinh.default: "Sinh",
    aten.cosh.default: "Cosh",
    aten.asinh.default: "Asinh",
    aten.acosh.default: "Acosh",
    aten.atanh.default: "Atanh",
}
_SELU = 1.0507009873554804934193349852946, 1.6732632423543772848170429916717
"""Scale and alpha (Klambauer et al. 2017, arXiv:1706.02515), as PyTorch has them."""
_LOG_SIGMOID = chain(operator("Neg"), operator("Softplus"), operator("Neg"))

RULES: dict[object, Rule] = {
    **{target: _of_one(operator(kind)) for target, kind in _SAME_NAME.items()},
    **dict.fromkeys((aten.relu.default,), _same_kind("Relu")),
    aten.abs.default: _same_kind("Abs"),
    aten.neg.default: _same_kind("Neg"),
    aten.sign.default: _same_kind("Sign"),
    aten.silu.default: _of_one(times_itself(operator("Sigmoid"))),
    aten.hardswish.default: _of_one(forms.hardswish),
    aten.hardsigmoid.default: _of_one(forms.hardsigmoid),
    aten.mish.default: _of_one(forms.mish),
    aten.square.default: _of_one(forms.square),
    aten.trunc.default: _of_one(forms.truncated),
    aten.gelu.default: _gelu,
    aten.prelu.default: _prelu,
    aten.rsqrt.default: _of_one(chain(operator("Sqrt"), operator("Reciprocal"))),
    aten.exp2.default: _of_one(with_number("Pow", 2, first=True)),
    aten.expm1.default: _of_one(chain(operator("Exp"), with_number("Sub", 1))),
    aten.log1p.default: _of_one(chain(with_number("Add", 1), operator("Log"))),
    aten.log2.default: _of_one(chain(operator("Log"), with_number("Div", math.log(2)))),
    aten.log_sigmoid.default: _of_one(_LOG_SIGMOID),
    aten.celu.default: _with_arguments(
        lambda to, name, alpha: forms.elu(to, name, alpha, 1, 1 / alpha), "alpha"
    ),
    aten.selu.default: _of_one(
        lambda to, name: to.emit("Selu", [name], gamma=_SELU[0], alpha=_SELU[1])
    ),
    aten.elu.default: _with_arguments(forms.elu, "alpha", "scale", "input_scale"),
    aten.softplus.default: _with_arguments(forms.softplus, "beta", "threshold"),
    aten.leaky_relu.default: _with_arguments(_leaky_relu, "negative_slope"),
    aten.hardshrink.default: _with_arguments(_hardshrink, "lambd"),
    aten.softshrink.default: _with_arguments(_softshrink, "lambd"),
    aten.threshold.default: _with_arguments(_threshold, "threshold", "value"),
    aten.relu6.default: _of_one(partial(clip, low=0, high=6)),
    aten.clamp.default: _clamp,
    aten.clamp_min.default: _with_arguments(clip, "min"),
    aten.clamp_max.default: _with_arguments(_clip_above, "max"),
    aten.hardtanh.default: _with_arguments(clip, "min_val", "max_val"),
    aten.clamp.Tensor: _clamp_by_tensors,
    aten.full_like.default: _filled(None),
    aten.zeros_like.default: _filled(0),
    aten.ones_like.default: _filled(1),
    **dict.fromkeys((aten.to.dtype, aten._to_copy.default), _to_dtype),
}

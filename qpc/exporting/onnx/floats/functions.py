"""Functions of one value at a time, as ONNX operators of any opset.

Each is called with the exporter and the name of a float32 tensor, and returns that of the result.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np

from qpc.exporting.onnx.exporter import Exporter

Form: TypeAlias = Callable[[Exporter, str], str]

_SINCE = {"HardSwish": 14, "Mish": 18, "Gelu": 20}
"""The first opset of operators that are spelled out before."""


def has(to: Exporter, kind: str) -> bool:
    """Whether the opset of a model has an operator."""
    return to.opset >= _SINCE[kind]


def operator(kind: str, **attributes: Any) -> Form:
    """An operator of ONNX of the same meaning."""
    return lambda to, name: to.emit(kind, [name], **attributes)


def number(to: Exporter, value: float) -> str:
    """A float32 constant."""
    return to.constant(np.float32(value))


def with_number(kind: str, value: float, *, first: bool = False) -> Form:
    """An operator of two values, one of which is a number."""

    def form(to: Exporter, name: str) -> str:
        operands = [name, number(to, value)]
        return to.emit(kind, operands[::-1] if first else operands)

    return form


def chain(*forms: Form) -> Form:
    """One after the other."""

    def form(to: Exporter, name: str) -> str:
        for step in forms:
            name = step(to, name)
        return name

    return form


def times_itself(form: Form) -> Form:
    """`x * form(x)`."""
    return lambda to, name: to.emit("Mul", [name, form(to, name)])


def square(to: Exporter, name: str) -> str:
    """`x * x`."""
    return to.emit("Mul", [name, name])


def hardsigmoid(to: Exporter, name: str) -> str:
    """`clamp(x / 6 + 1 / 2, 0, 1)`."""
    return to.emit("HardSigmoid", [name], alpha=1 / 6, beta=0.5)


def hardswish(to: Exporter, name: str) -> str:
    """`x * hardsigmoid(x)`."""
    if has(to, "HardSwish"):
        return to.emit("HardSwish", [name])
    return times_itself(hardsigmoid)(to, name)


def gelu(to: Exporter, name: str) -> str:
    """`x / 2 * (1 + erf(x / sqrt(2)))`."""
    if has(to, "Gelu"):
        return to.emit("Gelu", [name])
    scaled = to.emit("Div", [name, number(to, math.sqrt(2))])
    grown = to.emit("Add", [to.emit("Erf", [scaled]), number(to, 1)])
    return to.emit("Mul", [to.emit("Mul", [name, grown]), number(to, 0.5)])


def gelu_tanh(to: Exporter, name: str) -> str:
    """`x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x**3)))`, Hendrycks and Gimpel 2016."""
    if has(to, "Gelu"):
        return to.emit("Gelu", [name], approximate="tanh")
    cube = to.emit("Mul", [square(to, name), name])
    inside = to.emit("Add", [name, to.emit("Mul", [cube, number(to, 0.044715)])])
    inside = to.emit("Mul", [inside, number(to, math.sqrt(2 / math.pi))])
    grown = to.emit("Add", [to.emit("Tanh", [inside]), number(to, 1)])
    return to.emit("Mul", [to.emit("Mul", [name, grown]), number(to, 0.5)])


def mish(to: Exporter, name: str) -> str:
    """`x * tanh(softplus(x))`."""
    if has(to, "Mish"):
        return to.emit("Mish", [name])
    return times_itself(chain(operator("Softplus"), operator("Tanh")))(to, name)


def softplus(to: Exporter, name: str, beta: float = 1, threshold: float = 20) -> str:
    """`log(1 + exp(beta * x)) / beta`, and `x` itself where `beta * x` is above the threshold."""
    scaled = name if beta == 1 else with_number("Mul", beta)(to, name)
    made = to.emit("Softplus", [scaled])
    made = made if beta == 1 else with_number("Div", beta)(to, made)
    above = to.emit("Greater", [scaled, number(to, threshold)])
    return to.emit("Where", [above, name, made])


def elu(to: Exporter, name: str, alpha: float = 1, scale: float = 1, input_scale: float = 1) -> str:
    """`scale * x`, or below zero `scale * alpha * (exp(input_scale * x) - 1)`."""
    if input_scale == 1:
        made = to.emit("Elu", [name], alpha=float(alpha))
        return made if scale == 1 else with_number("Mul", scale)(to, made)
    low = to.emit("Min", [with_number("Mul", input_scale)(to, name), number(to, 0)])
    low = with_number("Sub", 1)(to, to.emit("Exp", [low]))
    low = with_number("Mul", scale * alpha)(to, low)
    return to.emit("Add", [with_number("Mul", scale)(to, to.emit("Relu", [name])), low])


def chosen(condition: Callable[[Exporter, str], str], otherwise: float) -> Form:
    """Values where a condition holds, a number elsewhere."""
    return lambda to, name: to.emit("Where", [condition(to, name), name, number(to, otherwise)])


def truncated(to: Exporter, name: str) -> str:
    """Values rounded towards zero."""
    magnitude = to.emit("Floor", [to.emit("Abs", [name])])
    return to.emit("Mul", [to.emit("Sign", [name]), magnitude])

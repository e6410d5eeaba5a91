"""Functions that a model spells out although PyTorch has a name for them, such as SiLU.

Quantization makes one table of a function, and keeps its inner steps unrounded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from math import isclose, sqrt
from typing import Any

from qpc.importers.onnx.values import Call

Maker = Callable[[str, str], Call | None]
"""The call of a kind that makes a tensor for one reader alone."""
IsNumber = Callable[[str, float], bool]


def with_named_functions(
    calls: Sequence[Call], constants: Mapping[str, Any], outputs: Sequence[str]
) -> list[Call]:
    """The calls with functions in the places of what spelled them out."""
    made_by = {name: call for call in calls for name in call.outputs}
    readers: dict[str, int] = dict.fromkeys(outputs, 1)
    for name in (name for call in calls for name in call.inputs):
        readers[name] = readers.get(name, 0) + 1

    def inner(name: str, kind: str) -> Call | None:
        found = made_by.get(name)
        return found if found and found.kind == kind and readers[name] == 1 else None

    def is_number(name: str, value: float) -> bool:
        array = constants.get(name)
        if array is None or array.size != 1:
            return False
        return isclose(float(array.reshape(())), value, rel_tol=1e-6)

    found: list[Call] = []
    for call in calls:
        named = next(_named(call, inner, is_number), None)
        found.append(named or call)
    return _needed(found, outputs)


def _named(call: Call, inner: Maker, is_number: IsNumber) -> Iterator[Call]:
    """A product as the function that it is the end of."""
    if call.kind != "Mul":
        return
    for x, other in (call.inputs, call.inputs[::-1]):
        if (step := inner(other, "Sigmoid")) and step.inputs == (x,):
            yield replace(call, kind="Silu", inputs=(x,))
        if (step := inner(other, "HardSigmoid")) and step.inputs == (x,) and _is_usual(step):
            yield replace(call, kind="HardSwish", inputs=(x,))
        softplus = inner(step.inputs[0], "Softplus") if (step := inner(other, "Tanh")) else None
        if softplus is not None and softplus.inputs == (x,):
            yield replace(call, kind="Mish", inputs=(x,))
        yield from _gelu(call, x, other, inner, is_number)


def _is_usual(call: Call) -> bool:
    """Whether a HardSigmoid is that of PyTorch."""
    return isclose(call.get("alpha", 0.2), 1 / 6, rel_tol=1e-5) and call.get("beta", 0.5) == 0.5


def _gelu(call: Call, a: str, b: str, inner: Maker, is_number: IsNumber) -> Iterator[Call]:
    """`x * (1 + erf(x / sqrt(2))) * 0.5`, with the half at the end or at the beginning."""
    pairs: list[tuple[str, ...]] = []
    if (product := inner(a, "Mul")) is None:
        return
    if is_number(b, 0.5):
        pairs = [product.inputs, product.inputs[::-1]]
    elif any(is_number(name, 0.5) for name in product.inputs):
        pairs = [(name, b) for name in product.inputs if not is_number(name, 0.5)]
    for x, rest in pairs:
        if _is_cumulated(x, rest, inner, is_number):
            yield replace(call, kind="Gelu", inputs=(x,))


def _is_cumulated(x: str, name: str, inner: Maker, is_number: IsNumber) -> bool:
    """Whether a tensor is `1 + erf(x / sqrt(2))`."""
    total = inner(name, "Add")
    if total is None or not any(is_number(n, 1.0) for n in total.inputs):
        return False
    for erf in (step for n in total.inputs if (step := inner(n, "Erf"))):
        divided, product = inner(erf.inputs[0], "Div"), inner(erf.inputs[0], "Mul")
        if divided and divided.inputs[0] == x and is_number(divided.inputs[1], sqrt(2)):
            return True
        if product and x in product.inputs:
            return any(is_number(n, 1 / sqrt(2)) for n in product.inputs)
    return False


def _needed(calls: Sequence[Call], outputs: Sequence[str]) -> list[Call]:
    """The calls that outputs depend on."""
    needed, found = set(outputs), []
    for call in reversed(calls):
        if needed & {*call.outputs}:
            needed |= {*call.inputs}
            found.append(call)
    return found[::-1]

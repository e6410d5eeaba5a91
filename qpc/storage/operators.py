"""Which operators a saved graph may call, and with which arguments.

The list is closed: `aten.py`, QPC's own, and those that a package registered
(`qpc.registry`). Of all of these a schema must say that they write to nothing and return
tensors and sizes only, and calls are checked against it.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch._ops import OpOverload
from torch.fx import Node

from qpc.calls import SHAPE_ARITHMETIC
from qpc.homes import all_homes
from qpc.registry import registered
from qpc.storage.aten import ATEN

MOST_ELEMENTS = 4096
"""Of a list, and pieces of a value that is split."""
_WORDS = re.compile(r"[\w\-.,> ]{0,200}")  # of modes, einsum's equations, and names of observers
_NUMBER_LIMIT = 2**63


class RefusedCallError(ValueError):
    """A call that a saved graph must not make; its text says why."""


def find(name: str) -> Callable[..., Any]:
    """The operator that `name_of` calls so. Raises RefusedCallError if there is none."""
    namespace, _, rest = name.partition(".")
    if namespace == "operator":
        if rest in _ARITHMETIC:
            return _ARITHMETIC[rest]
        raise RefusedCallError(f"{name!r} is no arithmetic on sizes")
    packet, _, overload = rest.partition(".")
    all_homes()  # defines QPC's own
    if namespace == "qpc" or (namespace == "aten" and packet in ATEN):
        found = getattr(getattr(torch.ops, namespace), packet, None)
        if isinstance(found, torch._ops.OpOverloadPacket) and overload in found.overloads():
            return _checked(getattr(found, overload))
    for spec in registered():
        if str(spec.target) == name:
            return _checked(spec.target)
    raise RefusedCallError(f"{name!r} is no operator that a saved graph may call")


def name_of(target: object) -> str:
    """How a saved graph calls an operator."""
    return str(target) if isinstance(target, OpOverload) else f"operator.{_function_name(target)}"


def check_call(target: object, args: Sequence[object], kwargs: Mapping[str, object]) -> None:
    """Raise RefusedCallError unless the arguments are of the types in the operator's schema."""
    if not isinstance(target, OpOverload):
        arity = 1 if _function_name(target) == "neg" else 2
        if len(args) != arity or kwargs or not all(_is_size(a) for a in args):
            raise RefusedCallError(f"{name_of(target)} takes {arity} sizes")
        return
    parameters = target._schema.arguments
    positional = [p for p in parameters if not p.kwarg_only]
    if len(args) > len(positional):
        raise RefusedCallError(f"{target} takes {len(positional)} arguments by position")
    given = dict(zip((p.name for p in positional), args, strict=False))
    if twice := given.keys() & kwargs.keys():
        raise RefusedCallError(f"{target} is given {min(twice)!r} twice")
    given |= kwargs
    if unknown := given.keys() - {p.name for p in parameters}:
        raise RefusedCallError(f"{target} takes no argument {min(unknown)!r}")
    for p in parameters:
        if p.name not in given:
            if not p.has_default_value():
                raise RefusedCallError(f"{target} is not given {p.name!r}")
        elif not _fits(given[p.name], str(p.real_type), _length(p)):
            raise RefusedCallError(f"{target} takes {p.real_type} for {p.name!r}")
    if target.namespace == "qpc":
        _check_numbers(target, given)


# --- operators ------------------------------------------------------------------------------------


@functools.cache
def _checked(target: OpOverload) -> OpOverload:
    schema = target._schema
    if schema.is_mutable or any(p.is_out for p in schema.arguments):
        raise RefusedCallError(f"{target} writes to its arguments")
    for p in (*schema.arguments, *schema.returns):
        if _innermost(str(p.real_type)) not in _CHECKS:
            raise RefusedCallError(f"{target} takes or returns {p.real_type}")
    return target


def _function_name(target: object) -> str:
    return getattr(target, "__name__", str(target))


_ARITHMETIC: dict[str, Callable[..., Any]] = {
    _function_name(f): cast(Callable[..., Any], f) for f in SHAPE_ARITHMETIC
}

# --- arguments ------------------------------------------------------------------------------------


def _length(parameter: object) -> int | None:
    """How many elements a list has to have; one number may stand for all of them."""
    return getattr(parameter, "N", None)


def _innermost(kind: str) -> str:
    while kind.endswith("]"):
        kind = kind[kind.index("[") + 1 : -1]
    return kind


def _fits(value: object, kind: str, count: int | None = None) -> bool:
    """Whether a value is of a type of PyTorch's schemas; `count` is the length of a list."""
    if kind.startswith("Optional["):
        return value is None or _fits(value, kind[len("Optional[") : -1], count)
    if kind.startswith("List["):
        inner = kind[len("List[") : -1]
        if isinstance(value, list | tuple):
            return len(value) <= MOST_ELEMENTS and all(_fits(v, inner) for v in value)
        return count is not None and _fits(value, inner)  # int[2] takes one number for both
    return kind in _CHECKS and _CHECKS[kind](value)


def _is_number(value: object) -> bool:
    return isinstance(value, bool | float | Node) or _is_size(value)


def _is_size(value: object) -> bool:
    if isinstance(value, Node):
        return True
    whole = isinstance(value, int) and not isinstance(value, bool)
    return whole and -_NUMBER_LIMIT <= cast(int, value) < _NUMBER_LIMIT


_CHECKS: dict[str, Callable[[object], bool]] = {
    "Tensor": _is_number,  # a number stands for a tensor without dimensions
    "number": _is_number,
    "int": _is_size,
    "float": lambda v: isinstance(v, float) or _is_size(v),
    "bool": lambda v: isinstance(v, bool),
    "str": lambda v: isinstance(v, str) and _WORDS.fullmatch(v) is not None,
    "Device": lambda v: isinstance(v, torch.device),
    "ScalarType": lambda v: isinstance(v, torch.dtype),
    "Layout": lambda v: v is torch.strided,
    "MemoryFormat": lambda v: isinstance(v, torch.memory_format),
}


def _check_numbers(target: OpOverload, given: Mapping[str, object]) -> None:
    """The numbers of QPC's own operators lie where the planner puts them."""
    for name, least, most in _ranges(given):
        value = given[name]
        if isinstance(value, Node):
            raise RefusedCallError(f"{target} takes a constant for {name!r}")
        for number in value if isinstance(value, list | tuple) else (value,):
            if not (isinstance(number, int | float) and least <= number <= most):
                raise RefusedCallError(f"{target} takes no {number!r} for {name!r}")
    lo, hi = given.get("lo"), given.get("hi")
    if isinstance(lo, int) and isinstance(hi, int) and lo > hi:
        raise RefusedCallError(f"{target} is given the empty range from {lo} to {hi}")


def _ranges(given: Mapping[str, object]) -> Iterator[tuple[str, float, float]]:
    for name in given:
        if name in ("lo", "hi") or name.endswith("zero_point"):
            if not isinstance(given[name], Node):  # that of fake quantization is a tensor
                yield name, -128, 255
        elif name == "shift":
            yield name, 0, 31
        elif name == "scale" or name.endswith("multiplier"):
            if not isinstance(given[name], Node):
                yield name, -math.ldexp(1, 127), math.ldexp(1, 127)
        elif name in ("stride", "dilation", "kernel_size", "groups"):
            yield name, 1, 2**31 - 1
        elif name in ("padding", "output_padding"):
            yield name, 0, 2**31 - 1

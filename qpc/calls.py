"""Calls of operators, and typed views of them: `Conv2d(node).stride`, not argument positions.

A view wraps a node whose target is one of the view's operators. Its attributes are named after the
operator's schema; reading one returns the argument or the schema's default, writing one edits the
node.
"""

from __future__ import annotations

import operator
from typing import Any, ClassVar, Generic, Self, TypeVar, cast, overload

import torch
from torch._ops import OpOverload, OpOverloadPacket
from torch.fx import Node

from qpc.homes import all_homes

_T = TypeVar("_T")


class _Operators:
    """`torch.ops.qpc`, whose operators are defined before the first is asked for."""

    def __getattr__(self, name: str) -> OpOverloadPacket[..., Any]:
        all_homes()
        found: OpOverloadPacket[..., Any] = getattr(torch.ops.qpc, name)
        return found


aten = torch.ops.aten
qpc_ops = _Operators()

# The only calls in core form that are no operator overloads: arithmetic on batch-dependent sizes.
SHAPE_ARITHMETIC = frozenset(
    {
        operator.add,
        operator.sub,
        operator.mul,
        operator.floordiv,
        operator.mod,
        operator.neg,
        operator.getitem,
    }
)


def is_shape_arithmetic(node: Node) -> bool:
    """Whether `node` computes a size or picks one result of several."""
    return node.target in SHAPE_ARITHMETIC


def arguments(node: Node) -> dict[str, Any]:
    """Every argument of an operator call by its schema name, defaults filled in."""
    if not isinstance(node.target, OpOverload):
        raise TypeError(f"node {node.name!r} does not call an operator overload")
    found: dict[str, Any] = {}
    for position, parameter in enumerate(node.target._schema.arguments):
        if position < len(node.args) and not parameter.kwarg_only:
            found[parameter.name] = node.args[position]
        elif parameter.name in node.kwargs:
            found[parameter.name] = node.kwargs[parameter.name]
        else:
            found[parameter.name] = parameter.default_value
    return found


def set_arguments(node: Node, **changes: object) -> None:
    """Replace arguments of an operator call by schema name."""
    values = arguments(node)
    if unknown := changes.keys() - values.keys():
        raise TypeError(f"{node.target} has no argument {sorted(unknown)}")
    assert isinstance(node.target, OpOverload)
    values.update(changes)
    keyword_only = {a.name for a in node.target._schema.arguments if a.kwarg_only}
    node.args = tuple(v for name, v in values.items() if name not in keyword_only)
    node.kwargs = {
        name: values[name]
        for name in values
        if name in keyword_only and (name in node.kwargs or name in changes)
    }


def drop_defaults(node: Node) -> None:
    """Leave out the last arguments of an operator call where they are what they are by default."""
    assert isinstance(node.target, OpOverload)
    args = list(node.args)
    for parameter in reversed(node.target._schema.arguments[: len(args)]):
        if not parameter.has_default_value() or args[-1] != parameter.default_value:
            break
        args.pop()
    node.args = tuple(args)


class Arg(Generic[_T]):
    """One argument of an operator, under its schema name unless `name` says otherwise."""

    def __init__(self, name: str | None = None) -> None:
        self._name = name or ""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = self._name or name

    @overload
    def __get__(self, view: None, owner: type) -> Self: ...
    @overload
    def __get__(self, view: OpView, owner: type) -> _T: ...
    def __get__(self, view: OpView | None, owner: type) -> Self | _T:
        if view is None:
            return self
        return cast(_T, self.decode(arguments(view.node)[self._name]))

    def __set__(self, view: OpView, value: _T) -> None:
        set_arguments(view.node, **{self._name: self.encode(value)})

    def encode(self, value: Any) -> Any:
        """The argument as the graph holds it: sequences are lists."""
        return list(value) if isinstance(value, tuple) else value

    def decode(self, value: Any) -> Any:
        """The argument as the view presents it."""
        return value


class Pair(Arg[tuple[int, int]]):
    """A height and width pair; operators also accept one number for both."""

    def decode(self, value: Any) -> tuple[int, int]:
        """Always two numbers."""
        if isinstance(value, int):
            return (value, value)
        numbers = tuple(int(v) for v in value)
        return (numbers[0], numbers[-1])


class Triple(Arg[tuple[int, int, int]]):
    """Depth, height and width; operators also accept one number for all of them."""

    def decode(self, value: Any) -> tuple[int, int, int]:
        """Always three numbers."""
        numbers = (value,) if isinstance(value, int) else tuple(int(v) for v in value)
        depth, height, width = numbers * 3 if len(numbers) == 1 else numbers
        return depth, height, width


class One(Arg[int]):
    """A number for one axis; operators also accept a list of one."""

    def decode(self, value: Any) -> int:
        """Always a number."""
        return int(value if isinstance(value, int) else value[0])


class Ints(Arg[tuple[int, ...]]):
    """A list of ints."""

    def decode(self, value: Any) -> tuple[int, ...]:
        """Always a tuple; None (all dimensions, in reductions) is empty."""
        return () if value is None else tuple(value)


class OpView:
    """Base of all views; subclasses name their operators and declare their arguments."""

    targets: ClassVar[frozenset[OpOverload]] = frozenset()

    def __init_subclass__(cls, *, of: OpOverload | tuple[OpOverload, ...] | None = None) -> None:
        super().__init_subclass__()
        if of is not None:
            cls.targets = frozenset(of if isinstance(of, tuple) else (of,))

    def __init__(self, node: Node) -> None:
        if not self.matches(node):
            raise TypeError(f"node {node.name!r} calls {node.target}, not {type(self).__name__}")
        self.node = node

    @classmethod
    def matches(cls, node: object) -> bool:
        """Whether `node` is a call of one of this view's operators."""
        return isinstance(node, Node) and node.op == "call_function" and node.target in cls.targets

    @classmethod
    def of(cls, node: object) -> Self | None:
        """The view of `node`, or None if it calls something else."""
        return cls(node) if isinstance(node, Node) and cls.matches(node) else None

"""What QPC knows about operators: one record for each, which packages may extend.

The records stand in the homes of the operators (`qpc.ops`). An operator that has none is never
guessed at: quantization leaves it in float, pruning keeps its channels, and both say so.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from torch._ops import OpOverload
from torch.fx import Node

from qpc.calls import OpView, aten
from qpc.homes import all_homes


class Role(Enum):
    """How an operator behaves under quantization."""

    COMPUTE = "multiplies by its own weight and accumulates; makes values on a new grid"
    AFFINE = "scales and shifts each channel by constants; makes values on a new grid"
    COMBINE = "combines several quantized values; makes values on a new grid"
    REDUCE = "averages or sums; makes values on a new grid"
    POINTWISE = "a function of one value at a time; becomes a table"
    CLAMP = "clamps; its producer can do it"
    MOVE = "moves values without changing them; keeps the grid"
    INTERPOLATE = "mixes neighbouring values, by weights with the sum 1; keeps the grid"
    RECURRENT = "multiplies by its own weights step by step; has no integer form"
    FLOAT = "has no integer form"


@dataclass(frozen=True)
class OpSpec:
    """One operator.

    target: the operator's overload in PyTorch.
    name: in reports and configurations.
    role: under quantization.
    view: its typed view, if it has one.
    converts: whether a layer with weights (Role.COMPUTE) has an integer form.
    ends_with_clamp: whether an integer operator clamps its results to its arguments `lo` and `hi`.
    """

    target: OpOverload
    name: str
    role: Role = Role.FLOAT
    view: type[OpView] | None = None
    converts: bool = False
    ends_with_clamp: bool = False


_SPECS: dict[OpOverload, OpSpec] = {}


def register(spec: OpSpec) -> OpSpec:
    """Add an operator. Raises ValueError if it is there already."""
    _add(spec, _specs())
    return spec


def spec_of(node: Node) -> OpSpec | None:
    """What is known about the operator that `node` calls, or None."""
    return _specs().get(node.target) if isinstance(node.target, OpOverload) else None


def op_name(node: Node) -> str:
    """The operator's name in reports and configurations, such as `conv2d`."""
    if spec := spec_of(node):
        return spec.name
    if isinstance(node.target, OpOverload):
        return node.target._schema.name.partition("::")[2]
    if node.op != "call_function":
        return node.op
    return getattr(node.target, "__name__", str(node.target))


def registered() -> tuple[OpSpec, ...]:
    """All operators known: those of QPC, then others in the order of their registration."""
    return tuple(_specs().values())


def specs_of_views(*views: tuple[type[OpView], str, Role]) -> tuple[OpSpec, ...]:
    """The records of operators that have a view and, but for their role, nothing special."""
    return tuple(
        OpSpec(target, name, role, view) for view, name, role in views for target in view.targets
    )


def specs_of_names(names: str, role: Role = Role.FLOAT) -> tuple[OpSpec, ...]:
    """The records of operators of PyTorch that have only a name and a role.

    names: as in "relu max.dim", with the overload if it is not the default one.
    """
    return tuple(OpSpec(t, t._schema.name.partition("::")[2], role) for t in overloads(names))


def overloads(names: str) -> Iterator[OpOverload]:
    """The operators of PyTorch that are called so; see `specs_of_names`."""
    for full in names.split():
        packet, _, overload = full.partition(".")
        yield getattr(getattr(aten, packet), overload or "default")


def _specs() -> dict[OpOverload, OpSpec]:
    if not _SPECS:
        found: dict[OpOverload, OpSpec] = {}
        for home in all_homes():
            for spec in home.SPECS:
                _add(spec, found)
        _SPECS.update(found)
    return _SPECS


def _add(spec: OpSpec, specs: dict[OpOverload, OpSpec]) -> None:
    if spec.target in specs:
        known = specs[spec.target].name
        raise ValueError(f"operator {spec.target} is registered already as {known!r}")
    specs[spec.target] = spec

"""What QPC knows about operators: one record for each, which packages may extend.

The records stand in the homes of the operators (`qpc.ops`). An operator that has none is never
guessed at: quantization leaves it in float, pruning keeps its channels, and both say so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

from torch._ops import OpOverload
from torch.fx import Node

from qpc.calls import OpView, aten
from qpc.homes import all_homes
from qpc.settings import require_kind

if TYPE_CHECKING:
    from torch import Tensor

    from qpc.analysis.integer_proofs import IntegerProof
    from qpc.channels.cost import Products, Sizes
    from qpc.channels.flow import Flow
    from qpc.channels.removal import Removal
    from qpc.conversion import Conversion


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
    STORED = "multiplies floats by integer weights of its own; makes floats"
    RECURRENT = "multiplies by its own weights step by step; has no integer form"
    FLOAT = "has no integer form"


def _nothing(node: Node) -> None:
    """Nothing stands in the way."""


@dataclass(frozen=True)
class Quantization:
    """How calls of an operator are quantized.

    refuse: why a call must stay in float, by itself, in words; None if it can be an integer
    operator.
    convert: makes the integer operator and returns it; None if there is none.
    joins_grids: whether it is free of cost if its operands are on the grid of its result, which
    they then take.
    rounds_constants: whether parameters among its operands are values like others, with grids of
    their own.
    ends_in_float: whether `convert` can also make an operator that returns float32, which it is to
    do where the result has no grid, because nothing but float operators reads it.
    convert_joined: of layers: makes the integer operator of a layer and of the addition that alone
    reads it, in the addition's place; given the addition's conversion and the layer.
    leaves_values: whether it only moves values, or chooses among them and constants, at about the
    same cost in float: before float operators it stays in float, and what it reads is not rounded.
    """

    role: Role
    refuse: Callable[[Node], str | None] = _nothing
    convert: Callable[[Conversion], Node] | None = None
    joins_grids: bool = False
    rounds_constants: bool = False
    ends_in_float: bool = False
    convert_joined: Callable[[Conversion, Node], Node] | None = None
    leaves_values: bool = False


def fits_by_itself(proof: IntegerProof, node: Node) -> None:
    """The `check` of operators that need no proof: maxima, single values, products of two."""


IN_FLOAT = Quantization(Role.FLOAT)
"""Of operators that have no integer form."""


class Through(Enum):
    """How layers see a parameter through an operator, as if they read the parameter itself."""

    WHOLE = "as it is, but for rounding"
    PERMUTED = "with its axes in another order"
    ROWS = "some of its rows"


@dataclass(frozen=True)
class OpSpec:
    """One operator. Only `target` must be given; the rest says what is not known of any operator.

    target: the operator's overload in PyTorch.
    name: in reports and configurations; by default that of its schema.
    view: its typed view, if it has one.

    In quantization:

    quantization: how it is quantized, or what tells that of each call.
    exact: whether it has one result on every target, however it is compiled.

    In pruning:

    channels: the labels of its value, given those of its inputs; without it, the channels that it
    reads have to stay. Where values have channels on several axes, it is asked about one axis after
    the other.
    channels_together: what is asked instead, once, about all axes, and returns labels for each.
    shrink: brings its arguments up to date that count channels, once some are gone.
    through: how layers see a parameter through it, if they do.
    batch_axes: of a product of two values: the axes of an operand along which it works on one
    after the other.

    For costs:

    macs: the multiply-accumulates of a call, as sums of products of sizes, if it is no layer that
    `qpc.layers` knows.
    multiplies: whether it is a matrix product, which with a parameter is a layer in all but name.

    Of integer operators:

    ends_with_clamp: whether it clamps its results to its arguments `lo` and `hi`.
    picks: whether every integer it returns is one that it reads, or lies between two of them; float
    operators that may also be called with integers say so too.
    bounds: the least and the greatest integer that a call may return, where that is known better.
    check: raises if the numbers of a call are not legal, or its sums might not fit 32 bits.

    Of sizes:

    keeps_size: whether a call has the size of its input among its arguments; given the call
    and the shapes of its first input, as traced and now.

    In files:

    refuse_in_files: what a file must not give it, in words, although PyTorch would take it and read
    or write memory that is something else's; given its arguments, tensors without data among them.
    """

    target: OpOverload
    name: str = ""
    quantization: Quantization | Callable[[Node], Quantization] = IN_FLOAT
    view: type[OpView] | None = None
    exact: bool = False
    channels: Callable[[Flow, Node], Tensor] | None = None
    channels_together: Callable[[Flow, Node], Sequence[Tensor]] | None = None
    shrink: Callable[[Removal, Node], None] | None = None
    through: Through | None = None
    batch_axes: Callable[[Flow, Node, Node], set[int]] | None = None
    macs: Callable[[Sizes, Node], Products] | None = None
    multiplies: bool = False
    ends_with_clamp: bool = False
    picks: bool = False
    bounds: Callable[[IntegerProof, Node], tuple[int, int]] | None = None
    check: Callable[[IntegerProof, Node], None] | None = None
    keeps_size: Callable[[Node, tuple[int, ...], tuple[int, ...]], bool] | None = None
    refuse_in_files: Callable[[Mapping[str, Any]], str | None] | None = None

    def __post_init__(self) -> None:
        if not self.name:
            object.__setattr__(self, "name", _schema_name(self.target))

    @property
    def follows_channels(self) -> bool:
        """Whether channels can be followed through it; without that, those that it reads stay."""
        return self.channels is not None or self.channels_together is not None


_SPECS: dict[OpOverload, OpSpec] = {}


def register_operator(spec: OpSpec) -> OpSpec:
    """Add an operator, and return it.

    Raises ValueError if it is there already, ConfigError for what is no `OpSpec`.

    From then on quantization, pruning, costs and saved graphs know it, in this process; a backend
    that is to compile it needs to know it too.
    """
    require_kind("spec", spec, OpSpec, "a qpc.OpSpec")
    _add(spec, _specs())
    return spec


def known(target: OpOverload) -> OpSpec | None:
    """What is known about an operator, or None."""
    return _specs().get(target)


def spec_of(node: Node) -> OpSpec | None:
    """What is known about the operator that `node` calls, or None."""
    return known(node.target) if isinstance(node.target, OpOverload) else None


def quantization_of(node: Node) -> Quantization:
    """How the call `node` is quantized; in float if nothing is known about its operator."""
    spec = spec_of(node)
    if spec is None:
        return IN_FLOAT
    found = spec.quantization
    return found if isinstance(found, Quantization) else found(node)


def seen_through(node: Node) -> Through | None:
    """How layers see a parameter through the call `node`; None if they do not."""
    spec = spec_of(node)
    return spec.through if spec is not None else None


def role_of(node: Node) -> Role:
    """The role of a call under quantization."""
    return quantization_of(node).role


def op_name(node: Node) -> str:
    """The operator's name in reports and configurations, such as `conv2d`."""
    if spec := spec_of(node):
        return spec.name
    if isinstance(node.target, OpOverload):
        return _schema_name(node.target)
    if node.op != "call_function":
        return node.op
    return getattr(node.target, "__name__", str(node.target))


def _schema_name(target: OpOverload) -> str:
    return target._schema.name.partition("::")[2]


def registered() -> tuple[OpSpec, ...]:
    """All operators known: those of QPC, then others in the order of their registration."""
    return tuple(_specs().values())


def overloads(names: str) -> Iterator[OpOverload]:
    """The operators of PyTorch that are called so: "relu max.dim", without the default overload."""
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
        name = specs[spec.target].name
        raise ValueError(f"operator {spec.target} is registered already as {name!r}")
    specs[spec.target] = spec

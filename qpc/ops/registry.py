"""What QPC knows about operators: one table, which packages may extend.

An operator that is not in the table is never guessed at: quantization leaves it in float and says
so.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from enum import Enum

from torch._ops import OpOverload
from torch.fx import Node

from qpc.ops import views
from qpc.ops.views import OpView, aten


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
    """One operator: its name in reports and configurations, its role, its typed view if any."""

    target: OpOverload
    name: str
    role: Role
    view: type[OpView] | None = None


_SPECS: dict[OpOverload, OpSpec] = {}

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


def register(spec: OpSpec) -> OpSpec:
    """Add an operator. Raises ValueError if it is there already."""
    if spec.target in _SPECS:
        known = _SPECS[spec.target].name
        raise ValueError(f"operator {spec.target} is registered already as {known!r}")
    _SPECS[spec.target] = spec
    return spec


def spec_of(node: Node) -> OpSpec | None:
    """What is known about the operator that `node` calls, or None."""
    return _SPECS.get(node.target) if isinstance(node.target, OpOverload) else None


def op_name(node: Node) -> str:
    """The operator's name in reports and configurations, such as `conv2d`."""
    if spec := spec_of(node):
        return spec.name
    if isinstance(node.target, OpOverload):
        return node.target._schema.name.partition("::")[2]
    if node.op != "call_function":
        return node.op
    return getattr(node.target, "__name__", str(node.target))


def is_shape_arithmetic(node: Node) -> bool:
    """Whether `node` computes a size or picks one result of several."""
    return node.target in SHAPE_ARITHMETIC


def registered() -> tuple[OpSpec, ...]:
    """All operators known, in the order in which they were registered."""
    return tuple(_SPECS.values())


def _register_core() -> None:
    viewed: list[tuple[type[OpView], str, Role]] = [
        (views.Conv1d, "conv1d", Role.COMPUTE),
        (views.Conv2d, "conv2d", Role.COMPUTE),
        (views.Conv3d, "conv3d", Role.COMPUTE),
        (views.ConvTranspose1d, "conv_transpose1d", Role.COMPUTE),
        (views.ConvTranspose2d, "conv_transpose2d", Role.COMPUTE),
        (views.ConvTranspose3d, "conv_transpose3d", Role.COMPUTE),
        (views.Linear, "linear", Role.COMPUTE),
        (views.Add, "add", Role.COMBINE),
        (views.Sub, "sub", Role.COMBINE),
        (views.Mul, "mul", Role.COMBINE),
        (views.Cat, "cat", Role.COMBINE),
        (views.Mean, "mean", Role.REDUCE),
        (views.Sum, "sum", Role.REDUCE),
        (views.AvgPool2d, "avg_pool2d", Role.REDUCE),
        (views.Relu, "relu", Role.CLAMP),
        (views.Clamp, "clamp", Role.CLAMP),
        (views.MaxPool2d, "max_pool2d", Role.MOVE),
        (views.Reshape, "reshape", Role.MOVE),
        (views.Pad, "pad", Role.MOVE),
        (views.MaxPool1d, "max_pool1d", Role.FLOAT),
        (views.AvgPool1d, "avg_pool1d", Role.FLOAT),
        (views.PadByValues, "pad", Role.MOVE),
        (views.UpsampleNearest2d, "upsample_nearest2d", Role.MOVE),
        (views.UpsampleBilinear2d, "upsample_bilinear2d", Role.INTERPOLATE),
        (views.BatchNorm, "batch_norm", Role.FLOAT),
        (views.Dropout, "dropout", Role.MOVE),
    ]
    for view, name, role in viewed:
        for target in view.targets:
            register(OpSpec(target, name, role, view))
    recurrent = (
        "lstm.input gru.input rnn_tanh.input rnn_relu.input "
        "lstm_cell.default gru_cell.default rnn_tanh_cell.default rnn_relu_cell.default"
    )
    moves = (
        "permute.default slice.Tensor select.int flip.default roll.default pixel_shuffle.default "
        "pixel_unshuffle.default channel_shuffle.default"
    )
    pointwise = (
        "sigmoid.default tanh.default silu.default hardswish.default hardsigmoid.default "
        "gelu.default leaky_relu.default elu.default softplus.default mish.default exp.default "
        "sqrt.default abs.default neg.default celu.default selu.default prelu.default "
        "log_sigmoid.default hardshrink.default softshrink.default threshold.default "
        "square.default pow.Tensor_Scalar reciprocal.default rsqrt.default exp2.default "
        "expm1.default log.default log1p.default log2.default erf.default sin.default cos.default "
        "atan.default sinh.default cosh.default floor.default ceil.default round.default "
        "trunc.default sign.default"
    )
    roles = ((recurrent, Role.RECURRENT), (moves, Role.MOVE), (pointwise, Role.POINTWISE))
    for names, role in roles:
        for full in names.split():
            packet, _, overload = full.partition(".")
            register(OpSpec(getattr(getattr(aten, packet), overload), packet, role))


_register_core()

"""One call of an integer operator on its way to a kernel, and what rules return for it.

Every rule gets the call's arguments by schema name, with a `Value` for each tensor that is computed
and a torch tensor for each constant, and returns a `Value`. Shapes of kernels are physical.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from tvm.relax import Expr

from qpc.backends.common.channel_slice import ChannelSlice
from qpc.backends.common.fused_padding import NO_PADDING, Padding
from qpc.backends.common.orders import NHWC, Order
from qpc.backends.common.traits import StageKind, Traits
from qpc.backends.tvm.kernels.conv.conv_plan import LayerConstants
from qpc.backends.tvm.kernels.conv.sums import Join
from qpc.backends.tvm.kernels.epilogue import Reals, Requantize
from qpc.backends.tvm.kernels.kernel import Kernel
from qpc.backends.tvm.kernels.pooling import RealAverage
from qpc.backends.tvm.lowering.emitter import Emitter
from qpc.backends.tvm.lowering.layout import Slice, Value
from qpc.types import TensorType

Arguments = Mapping[str, Any]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Fused:
    """An operator that the kernel of the layer before it does, and how."""

    node: Node
    args: Arguments
    stage: StageKind


@dataclass(frozen=True)
class Call:
    """One call of a `qpc::` operator and what is fused behind it."""

    node: Node
    args: Arguments
    result: TensorType
    """What the operator yields, in logical order."""
    stages: tuple[Fused, ...] = ()
    preferred: Order | None = None
    """The memory order that readers of a quantized value want."""
    share: ChannelSlice | None = None
    frame: Expr | None = None
    """Where the result goes in a concat, and the concat's tensor if others have begun it."""
    fused_padding: Padding = NO_PADDING
    """What a convolution pads beside its own padding."""
    greatest: int = 255
    """The greatest input that a layer ever meets, padding included."""

    @property
    def shape(self) -> Shape:
        """The logical shape of the operator's result."""
        return self.result.shape

    def tensor(self, name: str) -> Value | Slice:
        """The argument of that name, which is a computed tensor."""
        value = self.args[name]
        assert isinstance(value, Value | Slice)
        return value

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The graph nodes that the call computes."""
        return (self.node, *(fused.node for fused in self.stages))


Lower = Callable[[Emitter, Call], Value | Slice]
"""Emits the kernel of a call; the result is a slice if the call has a share of a concat."""


@dataclass(frozen=True)
class KernelRule:
    """How an integer operator becomes a call of a kernel, and what else is known of that kernel."""

    lower: Lower
    traits: Traits


def emitted(
    emit: Emitter, call: Call, kernel: Kernel, inputs: Sequence[Value | Slice], shape: Shape
) -> Value | Slice:
    """Images of logical `shape` that a kernel computes."""
    exprs = [value.expr for value in inputs]
    others = sum(v.view.others for v in inputs) + kernel.output.size - prod(shape)
    expr = emit.kernel(kernel, exprs, nodes=call.nodes, into=call.frame, others=others)
    if call.share is None:
        return Value(expr, shape, call.result.dtype, NHWC)
    n, _, h, w = shape
    whole = Value(expr, (n, call.share.channels, h, w), emit.activation, NHWC)
    return Slice(whole, call.share.first, shape)


def grid_arguments(args: Arguments, *zero_points: str) -> dict[str, Any]:
    """The constants of a grid under the names that kernels have for them."""
    return {k: args[k] for k in (*zero_points, "output_zero_point", "lo", "hi")}


def end_arguments(args: Arguments) -> dict[str, Any]:
    """How a layer ends, under the names that descriptions of its kernel have for that."""
    if "other" in args:
        numbers = (args[name] for name in ("other_zero_point", "other_multiplier", "shift"))
        return grid_arguments(args, "input_zero_point") | {"join": Join(*numbers)}
    if "greatest" not in args:
        return grid_arguments(args, "input_zero_point")
    return {"input_zero_point": args["input_zero_point"], "reals": reals_of(args)}


def reals_of(args: Arguments) -> Reals:
    """The bounds of a call that ends in float32."""
    return Reals(args["least"], args["greatest"])


def layer_constants(call: Call) -> LayerConstants:
    """The constants of a layer as kernels take them."""
    names = ("weight", "bias", "multiplier")
    weight, bias, multiplier = (call.args[name].numpy() for name in names)
    return LayerConstants(weight, bias, multiplier, call.greatest)


def average_of(args: Arguments, multiplier: float) -> Requantize | RealAverage:
    """What a call makes of its sums, which are multiplied by this."""
    if "greatest" in args:
        return RealAverage(args["input_zero_point"], multiplier, reals_of(args))
    return Requantize(multiplier=multiplier, **grid_arguments(args, "input_zero_point"))


def pair(value: int | Sequence[int]) -> tuple[int, int]:
    """One number for each of two axes."""
    if isinstance(value, int):
        return (value, value)
    return (int(value[0]), int(value[-1]))


def table_bytes(table: Tensor) -> bytes:
    """The bytes of a table, which begins with the least integer."""
    return table.to(torch.uint8).numpy().tobytes()

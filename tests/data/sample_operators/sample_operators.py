"""Two operators of another package: a function of one value, and a learned scale of channels."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.fx import Node

import qpc
from qpc.analysis.integer_proofs import IntegerProof
from qpc.analysis.origins import computed
from qpc.calls import Arg, OpView
from qpc.channels.atoms import Labels, spread
from qpc.channels.cost import Products, Sizes
from qpc.channels.flow import Flow
from qpc.conversion import Conversion
from qpc.errors import BackendError
from qpc.ops.pointwise import POINTWISE, first_input
from qpc.quant.arithmetic import requantize

# --- a function of one value ----------------------------------------------------------------------


@torch.library.custom_op("sample::softabs", mutates_args=())
def softabs(x: Tensor) -> Tensor:
    """`sqrt(x**2 + 1)`."""
    return torch.sqrt(x * x + 1.0)


@softabs.register_fake
def softabs_shape(x: Tensor) -> Tensor:
    """Like the input."""
    return torch.empty_like(x)


# --- a scale for each channel ---------------------------------------------------------------------


@torch.library.custom_op("sample::scale", mutates_args=())
def scale(x: Tensor, weight: Tensor) -> Tensor:
    """`x[n, c, h, w] * weight[c]`."""
    return x * weight[:, None, None]


@scale.register_fake
def scale_shape(x: Tensor, weight: Tensor) -> Tensor:
    """Like the input."""
    return torch.empty_like(x)


@torch.library.custom_op("sample::int_scale", mutates_args=())
def int_scale(
    q: Tensor, multiplier: Tensor, input_zero_point: int, output_zero_point: int, lo: int, hi: int
) -> Tensor:
    """The definition of the integer result; multiplier: float32[c]."""
    centred = q.to(torch.int32) - input_zero_point
    return requantize(centred, multiplier[:, None, None], output_zero_point, lo, hi, q.dtype)


@int_scale.register_fake
def int_scale_shape(
    q: Tensor, multiplier: Tensor, input_zero_point: int, output_zero_point: int, lo: int, hi: int
) -> Tensor:
    """Like the input."""
    return torch.empty_like(q)


SOFTABS = torch.ops.sample.softabs.default
SCALE = torch.ops.sample.scale.default
INT_SCALE = torch.ops.sample.int_scale.default


class Scale(OpView, of=SCALE):
    """`x * weight[c]`."""

    x = Arg[Node]()
    weight = Arg[Node]()


def refuse(node: Node) -> str | None:
    """Why a scale must stay in float."""
    weight = Scale(node).weight
    return None if weight.op == "get_attr" else f"its weight {computed(weight)}"


def convert(conversion: Conversion) -> Node:
    """The factors of the grids are multiplied into the weight."""
    view = Scale(conversion.node)
    source = conversion.grid_of(view.x)
    weight = conversion.tensor(view.weight).double()
    multiplier = (weight * source.scale / conversion.grid.scale).float()
    name = conversion.editor.free_name(f"integers.{view.weight.target}")
    operands = (conversion.integers[view.x], conversion.constant(name, multiplier))
    return conversion.call(INT_SCALE, *operands, source.zero_point, *conversion.ends)


def channels(flow: Flow, node: Node) -> Labels:
    """The weight has the channels of the value, along axis 1."""
    view = Scale(node)
    line = flow.line(node, view.x, 1)
    flow.attach(node, view.weight, 0, line)
    return spread(line, 1, flow.shape(node))


def macs(sizes: Sizes, node: Node) -> Products:
    """One for each element."""
    return [sizes.value(node)]


def check(proof: IntegerProof, node: Node) -> None:
    """Differences of two integers of 8 bits fit; the multiplier must be a number."""
    if not bool(torch.isfinite(proof.tensor(node, "multiplier", torch.float32)).all()):
        raise BackendError("a multiplier is infinite or NaN")


qpc.register_operator(qpc.OpSpec(SOFTABS, quantization=POINTWISE, channels=first_input))
qpc.register_operator(
    qpc.OpSpec(
        SCALE,
        quantization=qpc.Quantization(qpc.Role.AFFINE, refuse, convert),
        view=Scale,
        channels=channels,
        macs=macs,
    )
)
qpc.register_operator(qpc.OpSpec(INT_SCALE, exact=True, ends_with_clamp=True, check=check))

"""From float to integers and back; observers and fake quantization, which lead there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.fx import Node

from qpc.calls import arguments, set_arguments
from qpc.library import LIBRARY, define, like_first
from qpc.ops.pointwise import first_input
from qpc.quant.arithmetic import clamp_round, float32, reciprocal, require_sizes
from qpc.quant.fake_quantization import Rounding
from qpc.registry import OpSpec, Through, fits_by_itself

if TYPE_CHECKING:
    from qpc.channels.removal import Removal

_GRAPH = "the graph was made for inputs"


def _quantize(
    x: Tensor,
    scale: float,
    zero_point: int,
    lo: int,
    hi: int,
    dtype: torch.dtype,
    sizes: Sequence[int] | None = None,
) -> Tensor:
    """`sizes`: of the axes behind the first, where the graph is right for no others."""
    require_sizes(x, sizes, _GRAPH)
    return clamp_round(x * float32(reciprocal(scale)), zero_point, lo, hi).to(dtype)


def _fake_quantize(
    x: Tensor,
    scale: float,
    zero_point: int,
    lo: int,
    hi: int,
    dtype: torch.dtype,
    sizes: Sequence[int] | None = None,
) -> Tensor:
    require_sizes(x, sizes, _GRAPH)
    return torch.empty_like(x, dtype=dtype)


QUANTIZE = define(
    "quantize(Tensor x, float scale, int zero_point, int lo, int hi, ScalarType dtype,"
    " int[]? sizes=None) -> Tensor",
    _quantize,
    _fake_quantize,
)


def _dequantize(q: Tensor, scale: float, zero_point: int) -> Tensor:
    return (q.to(torch.int32) - zero_point).to(torch.float32) * float32(scale)


def _fake_dequantize(q: Tensor, scale: float, zero_point: int) -> Tensor:
    return torch.empty_like(q, dtype=torch.float32)


DEQUANTIZE = define(
    "dequantize(Tensor q, float scale, int zero_point) -> Tensor",
    _dequantize,
    _fake_dequantize,
)


def _observe(x: Tensor, observer: str) -> Tensor:
    return x.clone()


OBSERVE = define(
    "observe(Tensor x, str observer) -> Tensor",
    _observe,
    like_first,
)


def _fake_quant(
    x: Tensor,
    scale: Tensor,
    zero_point: Tensor,
    lo: int,
    hi: int,
    axis: int = 0,
    groups: int = 1,
    gradient_scale: float = 1.0,
) -> Tensor:
    """Round to a grid and back; scale and zero_point hold one value, or one by index of `axis`.

    With `groups`, axis 0 holds that many groups, and there is one value by group and index. The
    gradients of scales and zero points that are learned are multiplied by `gradient_scale`.
    """
    return Rounding(scale, zero_point, lo, hi, axis, groups).apply(x)


FAKE_QUANTIZE = define(
    "fake_quantize(Tensor x, Tensor scale, Tensor zero_point, int lo, int hi, int axis=0,"
    " int groups=1, float gradient_scale=1.0) -> Tensor",
    _fake_quant,
    like_first,
)


def _shrink_fake_quantize(removal: Removal, node: Node) -> None:
    """Steps that are learned share fewer values, and their gradients are scaled by their root."""
    given = arguments(node)
    if given["gradient_scale"] == 1.0:
        return
    value, step = given["x"], given["scale"]
    before, after = 1.0, 1.0
    for source, exponent in ((value, 1), (step, -1)):
        sizes = [len(stays) for stays in removal.kept(source)]
        before *= math.prod(sizes) ** exponent
        after *= math.prod(removal.counts(source)) ** exponent
    if 0 < after != before:
        scale = given["gradient_scale"] * math.sqrt(before / after)
        set_arguments(node, gradient_scale=scale)


def _pass_on(context: Any, gradient: Tensor) -> tuple[Tensor, None]:
    return gradient, None


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, scale, zero_point, *grid, gradient_scale = inputs
    ctx.save_for_backward(x, scale, zero_point)
    ctx.grid, ctx.gradient_scale = grid, gradient_scale


def _estimate(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    """See `qpc.quant.fake_quantization`."""
    x, scale, zero_point = context.saved_tensors
    rounding = Rounding(scale, zero_point, *context.grid)
    numbers = (None,) * (len(context.grid) + 1)
    if not any(context.needs_input_grad[1:3]):
        return rounding.input_gradient(gradient, x), None, None, *numbers
    at_input, at_scale, at_zero_point = rounding.gradients(gradient, x)
    factor = context.gradient_scale
    return at_input, at_scale * factor, at_zero_point * factor, *numbers


torch.library.register_autograd("qpc::observe", _pass_on, lib=LIBRARY)
torch.library.register_autograd("qpc::fake_quantize", _estimate, setup_context=_keep, lib=LIBRARY)

SPECS = (
    OpSpec(QUANTIZE, exact=True, ends_with_clamp=True, check=fits_by_itself),
    OpSpec(DEQUANTIZE, exact=True, check=fits_by_itself),
    OpSpec(OBSERVE, channels=first_input, through=Through.WHOLE),
    OpSpec(
        FAKE_QUANTIZE,
        channels=first_input,
        through=Through.WHOLE,
        shrink=_shrink_fake_quantize,
    ),
)

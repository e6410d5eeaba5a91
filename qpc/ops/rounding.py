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
from qpc.quant.following import Following
from qpc.quant.simulated_folding import FoldedNorm, UnfoldedStep, rounded_bias
from qpc.registry import OpSpec, Through, fits_by_itself

if TYPE_CHECKING:
    from qpc.channels.removal import Removal

_GRID_INPUTS = 8  # of fake_quantize, up to gradient_scale
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
    trains=True,
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
    range: Tensor | None = None,
    member: int = 0,
    decay: float = 0.0,
    symmetric: bool = False,
    synchronized: bool = False,
    training: bool = False,
    safe_pairs: bool = False,
) -> Tensor:
    """Round to a grid and back; scale and zero_point hold one value, or one by index of `axis`.

    With `groups`, axis 0 holds that many groups, and there is one value by group and index. The
    gradients of scales and zero points that are learned are multiplied by `gradient_scale`.

    A grid that has a `range` follows the values in training (see `qpc.quant.following`): range,
    scale and zero_point are changed in place then, as the statistics of a batch norm are.

    safe_pairs: `x` is a weight whose pairs are to be safe (see `qpc.quant.pairs`).
    """
    rounding = Rounding(scale, zero_point, lo, hi, axis, groups, safe_pairs)
    if training and range is not None:
        Following(range, member, decay, symmetric, synchronized).update(x, rounding)
    return rounding.apply(x)


FAKE_QUANTIZE = define(
    "fake_quantize(Tensor x, Tensor scale, Tensor zero_point, int lo, int hi, int axis=0,"
    " int groups=1, float gradient_scale=1.0, Tensor? range=None, int member=0, float decay=0.0,"
    " bool symmetric=False, bool synchronized=False, bool training=False, bool safe_pairs=False)"
    " -> Tensor",
    _fake_quant,
    like_first,
    trains=True,
)


def _unfold(
    step: Tensor,
    weight: Tensor | None,
    running_var: Tensor,
    eps: float,
    gradient_scale: float = 1.0,
) -> Tensor:
    """The steps of weights that are multiplied by a batch norm's factors once it is folded.

    step: float32[1], of the folded weights; weight: float32[channels], the batch norm's, or None
    for ones. Returns float32[channels]. The gradient at `step` is multiplied by `gradient_scale`.
    """
    return UnfoldedStep(step, FoldedNorm(weight, None, running_var, eps)).value()


UNFOLD_STEP = define(
    "unfold_step(Tensor step, Tensor? weight, Tensor running_var, float eps,"
    " float gradient_scale=1.0) -> Tensor",
    _unfold,
    lambda step, weight, running_var, *_: torch.empty_like(running_var),
    trains=True,
)


def _round_bias(
    bias: Tensor,
    input_scale: Tensor,
    weight_scale: Tensor,
    layer_bias: Tensor | None = None,
    weight: Tensor | None = None,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    eps: float = 0.0,
) -> Tensor:
    """A bias as the integer layer will have it, as float32[channels].

    With the statistics of a batch norm, `bias` is that of the batch norm, `layer_bias` that of the
    layer, and what folding makes of both of them is rounded.
    """
    step = input_scale, weight_scale
    if running_mean is None or running_var is None:
        return rounded_bias(bias, *step)
    norm = FoldedNorm(weight, running_mean, running_var, eps)
    return norm.rounded_bias(bias, layer_bias, *step)


ROUND_BIAS = define(
    "round_bias(Tensor bias, Tensor input_scale, Tensor weight_scale, Tensor? layer_bias=None,"
    " Tensor? weight=None, Tensor? running_mean=None, Tensor? running_var=None, float eps=0.0)"
    " -> Tensor",
    _round_bias,
    like_first,
    trains=True,
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
    x, scale, zero_point, *grid, gradient_scale = inputs[:_GRID_INPUTS]
    if not ctx.needs_input_grad[1]:
        # a grid that follows its values may be changed in place before the gradient is asked for
        scale, zero_point = scale.clone(), zero_point.clone()
    ctx.save_for_backward(x, scale, zero_point)
    *_, safe_pairs = inputs
    ctx.grid, ctx.gradient_scale = (*grid, safe_pairs), gradient_scale


def _estimate(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    """See `qpc.quant.fake_quantization`."""
    x, scale, zero_point = context.saved_tensors
    rounding = Rounding(scale, zero_point, *context.grid)
    numbers = (None,) * (len(context.needs_input_grad) - 3)
    if not any(context.needs_input_grad[1:3]):
        return rounding.input_gradient(gradient, x), None, None, *numbers
    wanted = context.needs_input_grad[2]
    at_input, at_scale, at_zero = rounding.gradients(gradient, x, zero_points=wanted)
    factor = context.gradient_scale
    return at_input, at_scale * factor, None if at_zero is None else at_zero * factor, *numbers


def _keep_unfolded(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    step, weight, running_var, ctx.eps, ctx.gradient_scale = inputs
    # training moves the variance in place before the gradient is asked for
    ctx.save_for_backward(step, weight, running_var.clone())


def _at_step(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    step, weight, running_var = context.saved_tensors
    norm = FoldedNorm(weight, None, running_var, context.eps)
    at_step, at_weight = UnfoldedStep(step, norm).gradients(gradient)
    return at_step * context.gradient_scale, at_weight, None, None, None


torch.library.register_autograd("qpc::observe", _pass_on, lib=LIBRARY)
torch.library.register_autograd("qpc::fake_quantize", _estimate, setup_context=_keep, lib=LIBRARY)


def _to_bias(context: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    """Rounding counts as the identity."""
    return gradient, *(None,) * 7


torch.library.register_autograd("qpc::round_bias", _to_bias, lib=LIBRARY)
torch.library.register_autograd(
    "qpc::unfold_step", _at_step, setup_context=_keep_unfolded, lib=LIBRARY
)

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
    OpSpec(UNFOLD_STEP),
    OpSpec(ROUND_BIAS, channels=first_input, through=Through.WHOLE),
)

"""Integer constants of quantized layers: weights, biases, multipliers, bounds and tables.

Exact int64 or float64 arithmetic throughout, one rounding at the end. The product of two float32
scales is exact in float64.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qpc.errors import OverflowProofError, PassError
from qpc.quant.arithmetic import JOINED_BOUND
from qpc.quant.config import WeightConfig
from qpc.quant.grid import LARGEST_SCALE, SMALLEST_SCALE, QParams
from qpc.quant.observers import MSE
from qpc.quant.pairs import PAIR_LIMIT, paired, safe_points, widest_pairs

BIAS_LIMIT = 2**30
"""Largest quantized bias: half of int32, which leaves the other half to the products."""
INT32_MAX = 2**31 - 1
"""The greatest accumulator."""
_INT16_MAX = 2**15 - 1
_MAX_ADD_SHIFT = 22
_REAL_SUM_SHIFT = 14  # the largest power of two that fits int16
_NO_TABLE = "a table needs a function from float32[256] to float32[256], got {} {}"


# --- weights ------------------------------------------------------------------------------------


def weight_limit(bits: int) -> int:
    """Return the largest quantized weight; the grid is [-limit, limit], the same on both sides."""
    return (1 << (bits - 1)) - 1


def weight_scales(weight: Tensor, cfg: WeightConfig, axis: int = 0) -> Tensor:
    """Return float32[C], a scale for each channel along `axis`; float32[1] if not per channel.

    weight: float32 of any shape. MinMax puts the largest magnitude on the highest grid point; MSE
    minimises the sum of squared errors. With safe pairs, the widest pair of one sign is on
    `PAIR_LIMIT` at most, and `weight` is [out, in/groups, *kernel], whatever the axis. A channel of
    zeros gets `SMALLEST_SCALE`, which `floor_scales_for_bias` raises to what its bias needs. Raises
    `PassError` for NaN and infinity.
    """
    require_finite("weight", weight)
    whole = weight.detach().to(torch.float32)
    rows = paired(whole) if cfg.safe_pairs else whole.movedim(axis, 0)
    rows = rows.flatten(1) if cfg.per_channel else rows.reshape(1, -1)
    flat = np.ascontiguousarray(rows.numpy())
    limit = weight_limit(cfg.bits)
    exact = np.abs(flat).max(axis=1, initial=0.0).astype(np.float64) / limit
    if cfg.safe_pairs:
        sums = widest_pairs(whole.double()).numpy() / PAIR_LIMIT
        exact = np.maximum(exact, sums if cfg.per_channel else sums.max(initial=0.0))
    scales = _legal(exact)
    if isinstance(cfg.observer, MSE):
        scales = _least_squares_scales(flat, scales, limit, safe=cfg.safe_pairs)
    return torch.from_numpy(scales)


def quantize_weight(
    weight: Tensor, scales: Tensor, bits: int, axis: int = 0, *, safe: bool = False
) -> Tensor:
    """Return `clamp(rne(float32(weight / scale)), -limit, limit)` as int8[weight.shape].

    weight: float32; scales: float32[C] along `axis`, or float32[1]. safe: pairs are, of a weight
    [out, in/groups, *kernel]. Raises `PassError` for NaN and infinite weights.
    """
    require_finite("weight", weight)
    limit = weight_limit(bits)
    ratio = weight.detach().to(torch.float32) / along(scales, weight.dim(), axis)
    points = ratio.round().clamp(-limit, limit)
    return (safe_points(points, ratio) if safe else points).to(torch.int8)


def along(scales: Tensor, dims: int, axis: int) -> Tensor:
    """Return `scales` ([C] or [1]), viewed to broadcast along `axis` of a tensor of `dims` axes."""
    shape = [1] * dims
    shape[axis] = scales.numel()
    return scales.reshape(shape)


def _legal(scales: NDArray[np.float64]) -> NDArray[np.float32]:
    return np.clip(scales, SMALLEST_SCALE, LARGEST_SCALE).astype(np.float32)


def _least_squares_scales(
    rows: NDArray[np.float32], widest: NDArray[np.float32], limit: int, *, safe: bool
) -> NDArray[np.float32]:
    """Return the scale of each row with the least squared error.

    safe: neighbours in a row are pairs, which are made safe.

    In numpy, whose sums do not depend on the number of threads, so neither does the choice.
    """
    factors = [
        _least_squares_factor(row / scale, limit, safe=safe)
        for row, scale in zip(rows, widest, strict=True)
    ]
    return _legal(widest.astype(np.float64) * np.array(factors))


def _least_squares_factor(row: NDArray[np.float32], limit: int, *, safe: bool) -> float:
    """Return the step with the least squared error for `row`, values of magnitude `limit` at most.

    The best of 81 steps from 1.0 down to 0.2, then refined in closed form: for fixed integers q the
    best step is <row, q> / <q, q>, and alternating the two never raises the error.
    """
    best, least = 1.0, np.inf

    def attempt(factor: float) -> NDArray[np.float32]:
        nonlocal best, least
        places = row * np.float32(1.0 / factor)
        q: NDArray[np.float32] = np.rint(places)
        np.clip(q, -limit, limit, out=q)
        if safe:
            one = (torch.from_numpy(part)[None] for part in (q, places))
            q = safe_points(*one).numpy()[0]
        residual = row - q * np.float32(factor)
        error = float(np.einsum("k,k->", residual, residual))
        if error < least:
            best, least = factor, error
        return q

    for percent in range(100, 19, -1):
        attempt(percent / 100.0)
    for _ in range(4):
        q = attempt(best)
        square = float(np.einsum("k,k->", q, q))
        if square > 0.0:
            attempt(float(np.einsum("k,k->", row, q)) / square)
    return best


# --- biases and multipliers ---------------------------------------------------------------------


def floor_scales_for_bias(scales: Tensor, bias: Tensor, input_scale: float) -> Tensor:
    """Return `scales` (float32, [O] or [1]) raised until every bias fits its integer.

    Afterwards `|bias| / (input_scale * scale) <= 2**30`. A channel of zero weights, which
    `weight_scales` marks with `SMALLEST_SCALE`, gets the finest scale that its bias (float32[O])
    allows, at which the bias has 30 bits, more than a float32; 1.0 if the bias is zero too.

    Raises `OverflowProofError` if no legal scale is large enough, `PassError` for NaN and infinity.
    """
    require_finite("bias", bias)
    magnitude = bias.detach().to(torch.float64).abs().numpy()
    if scales.numel() == 1:
        magnitude = magnitude.max(initial=0.0, keepdims=True)
    needed = magnitude / (float(input_scale) * BIAS_LIMIT)
    if (needed > LARGEST_SCALE).any():
        raise OverflowProofError(
            f"the bias {magnitude.max():.6g} does not fit int32 at input scale {input_scale:.6g}"
        )
    floor = needed.astype(np.float32)
    floor = np.where(floor < needed, np.nextafter(floor, np.float32(np.inf)), floor)
    raised = np.maximum(scales.numpy(), floor)
    empty = (raised == np.float32(SMALLEST_SCALE)) & (magnitude == 0.0)
    return torch.from_numpy(np.where(empty, np.float32(1.0), raised))


def quantize_bias(bias: Tensor, input_scale: float, weight_scale: Tensor) -> Tensor:
    """Return `rne(bias / (input_scale * weight_scale))` as int32[O].

    bias: float32[O]; weight_scale: float32[O] or float32[1]. Raises `OverflowProofError` if a
    result does not fit, `PassError` for NaN and infinity.
    """
    require_finite("bias", bias)
    step = float(input_scale) * weight_scale.to(torch.float64)
    exact = (bias.detach().to(torch.float64) / step).round()
    too_large = exact.abs() > INT32_MAX
    if too_large.any():
        channel = int(too_large.nonzero()[0])
        raise OverflowProofError(
            f"the bias of channel {channel} becomes {exact[channel].item():.6g}, outside int32"
        )
    return exact.to(torch.int32)


def requant_multiplier(input_scale: float, weight_scale: Tensor, output_scale: float) -> Tensor:
    """Return `float32(input_scale * weight_scale / output_scale)`, shaped like `weight_scale`.

    Computed in float64. A result below the normal float32 range becomes 0: the output is the same,
    and it is also the same on hardware that flushes subnormals. Raises `OverflowProofError` if a
    result is too large for float32.
    """
    exact = float(input_scale) * weight_scale.to(torch.float64) / float(output_scale)
    multiplier = torch.where(exact < SMALLEST_SCALE, 0.0, exact).to(torch.float32)
    if not torch.isfinite(multiplier).all():
        raise OverflowProofError(
            f"the requantization multiplier {exact.max().item():.6g} does not fit float32"
        )
    return multiplier


def accumulator_bounds(
    weight: Tensor, bias: Tensor, zero_point: int, lo: int, hi: int
) -> tuple[Tensor, Tensor]:
    """Return the least and the greatest accumulator of each output channel, int64[O], attained.

    weight: int8[O, ...]; bias: int32[O]; the inputs are any integers from lo to hi, and
    `lo <= zero_point <= hi`, so padding, which contributes 0, stays between the bounds.
    """
    flat = weight.flatten(1)
    positive, negative = (
        part.sum(1, dtype=torch.int64) for part in (flat.clamp(min=0), flat.clamp(max=0))
    )
    start = bias.to(torch.int64)
    least, greatest = lo - zero_point, hi - zero_point
    return (
        start + positive * least + negative * greatest,
        start + positive * greatest + negative * least,
    )


def add_multipliers(scales: tuple[float, float], output_scale: float) -> tuple[int, int, int]:
    """Return `(a_multiplier, b_multiplier, shift)` of `qpc::add`: int16 factors, one power of two.

    The largest shift up to 22 at which both `rne(scale / output_scale * 2**shift)` fit int16. The
    rounded factors move the sum by at most `255 / 2**shift` output steps, on top of the half step
    of the final rounding. A ratio above 32767 is clamped, at shift 0: one step of that input alone
    saturates the output. The sum is at most `2 * 255 * 32767 + 2**21`, far inside int32.
    """
    a_ratio, b_ratio = (float(scale) / float(output_scale) for scale in scales)
    for shift in range(_MAX_ADD_SHIFT, -1, -1):
        a, b = round(a_ratio * 2.0**shift), round(b_ratio * 2.0**shift)
        if max(a, b) <= _INT16_MAX:
            return a, b, shift
    return min(round(a_ratio), _INT16_MAX), min(round(b_ratio), _INT16_MAX), 0


def joined_multipliers(other_scale: float, output_scale: float) -> tuple[int, int]:
    """Return `(other_multiplier, shift)` of an addition that a layer's accumulators join.

    The largest shift at which `255 * (2**shift + other_multiplier) <= 2**22`, with the multiplier
    `rne(other_scale / output_scale * 2**shift)`: both operands and the result have room, and the
    common grid is 4,000 times as fine as the coarser of theirs, or more. A ratio that has no such
    shift is clamped, at shift 0: one step of that input alone saturates the output.
    """
    ratio, most = float(other_scale) / float(output_scale), JOINED_BOUND // 255
    for shift in range(most.bit_length(), -1, -1):
        factor = round(ratio * 2.0**shift)
        if (1 << shift) + factor <= most:
            return factor, shift
    return most - 1, 0


def sum_scale(scales: tuple[float, float]) -> tuple[int, int, float]:
    """Return `(a_multiplier, b_multiplier, scale)` of `qpc::add_float`: int16 factors, and a scale.

    The scale is that of the coarser summand over 2**14, or, if that is no normal float32, the least
    one. So its factor is exact, as 2**14 is, and that of the finer is off by half of one at most:
    less than a hundredth of a step of the coarser summand in the sum.
    """
    coarser = max(scales)
    scale = max(coarser / 2.0**_REAL_SUM_SHIFT, SMALLEST_SCALE)
    first, second = (min(round(each / scale), _INT16_MAX) for each in scales)
    return first, second, scale


# --- tables -------------------------------------------------------------------------------------


def lookup_table(
    fn: Callable[[Tensor], Tensor], input_qparams: QParams, output_qparams: QParams
) -> Tensor:
    """Return the quantized results of a pointwise function for all inputs q, in the output's dtype.

    The table has 256 entries, indexed by `q - iinfo(input dtype).min`.
    fn: float32[256] -> float32[256], applied to the dequantized inputs; NaN becomes the lowest
    point. Raises `ValueError` if it returns another shape or dtype.
    """
    return output_qparams.quantize(real_table(fn, input_qparams))


def real_table(fn: Callable[[Tensor], Tensor], input_qparams: QParams) -> Tensor:
    """Return the results of a pointwise function for all inputs q, float32[256]; see above."""
    limits = torch.iinfo(input_qparams.dtype)
    result = fn(input_qparams.dequantize(torch.arange(limits.min, limits.max + 1)))
    if result.shape != (256,) or result.dtype != torch.float32:
        raise ValueError(_NO_TABLE.format(result.dtype, list(result.shape)))
    return result.detach()


def requant_table(input_qparams: QParams, output_qparams: QParams) -> Tensor:
    """Return the table that moves values to another grid: `lookup_table` of the identity."""
    return lookup_table(lambda real: real, input_qparams, output_qparams)


def require_finite(name: str, values: Tensor) -> None:
    """Raise PassError for NaN and infinity."""
    if not torch.isfinite(values).all():
        raise PassError(f"the {name} holds NaN or infinite values", fix="repair the checkpoint")

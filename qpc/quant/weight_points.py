"""Which grid points weights are given, and on which scales, so that a layer's outputs are right.

Weights here are of groups, float32[groups, outputs, taps], with what they are multiplied with,
float32[groups, rows, taps]. A mean error counts for nothing throughout, as a bias takes it up.
Weights that are exactly 0 are given the point 0: they are masked, or might be.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

Rounded: TypeAlias = Callable[[Tensor], Tensor]
"""From scales to points of weights."""
_FACTORS = tuple(percent / 100 for percent in range(100, 29, -2))
"""Of the scale at which nothing is clipped; at 4 bits, 0.4 to 0.9 are chosen."""


def nearest_points(weight: Tensor, scales: Tensor, limit: int) -> Tensor:
    """The nearest points, float32; `scales` broadcasts over `weight`."""
    return (weight / scales).round().clamp(-limit, limit)


def output_errors(points: Tensor, scales: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
    """The squared error of each output less its mean, float32[groups, outputs].

    targets: float32[groups, rows, outputs].
    """
    error = torch.baddbmm(targets, inputs, (points * scales).transpose(1, 2), alpha=-1.0)
    return (error - error.mean(1, keepdim=True)).square().sum(1)


def fitted_scales(
    weight: Tensor,
    scales: Tensor,
    limit: int,
    inputs: Tensor,
    targets: Tensor,
    rounded: Rounded | None = None,
) -> Tensor:
    """Scales, in the shape of `scales`, with the least squared error of the outputs.

    scales: float32[groups, outputs, 1], or one number [1, 1, 1] for the whole layer. Tried are the
    present one and those that put 100 %, 98 %, ... 30 % of the largest weight on the last point.
    rounded: the points on given scales; the nearest ones if None.
    """
    points = rounded or (lambda tried: nearest_points(weight, tried, limit))
    one = scales.numel() == 1
    largest = weight.abs().amax((0, 1, 2) if one else 2, keepdim=True)
    widest = torch.where(largest > 0, largest / limit, scales)
    best, least = scales, _errors(points, scales, inputs, targets)
    for factor in _FACTORS:
        tried = widest * factor
        error = _errors(points, tried, inputs, targets)
        better = error < least
        best, least = torch.where(better, tried, best), torch.where(better, error, least)
    return best


def _errors(points: Rounded, scales: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
    errors = output_errors(points(scales), scales, inputs, targets)[..., None]
    return errors.sum().reshape(1, 1, 1) if scales.numel() == 1 else errors


# --- compensation ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Compensation:
    """How the error of one weight is made up for by those that are rounded after it.

    damping: this share of the mean of its diagonal is added to the diagonal of the Hessian.
    block: this many weights are rounded before those behind them are brought up to date.
    ordered: round the weights of the largest inputs first, while there are many left to make up.
    """

    damping: float
    block: int
    ordered: bool


def compensated_points(
    weight: Tensor,
    scales: Tensor,
    limit: int,
    inputs: Tensor,
    how: Compensation,
    targets: Tensor | None = None,
) -> Tensor:
    """Points by GPTQ (Frantar et al. 2022, arXiv:2210.17323), float32 in the shape of `weight`.

    Weights are rounded one input after the other, all outputs at once. The error of each is taken
    out of the inputs that are left, by the inverse Hessian of the squared error of the outputs.

    targets: float32[groups, rows, outputs], what should come out; by default that of `weight`.
    """
    groups, outputs, taps = weight.shape
    centred = (inputs - inputs.mean(1, keepdim=True)).double()
    hessian = centred.transpose(1, 2) @ centred
    diagonal = hessian.diagonal(dim1=1, dim2=2)
    mean = diagonal.mean(1, keepdim=True)
    dead = diagonal == 0.0
    extra = how.damping * torch.where(mean > 0.0, mean, 1.0)
    hessian = hessian + torch.diag_embed(extra + dead * torch.where(mean > 0.0, mean, 1.0))
    order = torch.arange(taps).expand(groups, taps)
    if how.ordered:
        order = diagonal.argsort(dim=1, descending=True, stable=True)
    there = order[:, None, :].expand(-1, outputs, -1)
    aimed = weight.double()
    if targets is not None:
        aimed = aimed + _aim(aimed, hessian, centred, targets)
    left = aimed.gather(2, there)
    kept = weight.gather(2, there) != 0.0
    hessian = hessian.gather(1, order[:, :, None].expand(-1, -1, taps))
    hessian = hessian.gather(2, order[:, None, :].expand(-1, taps, -1))
    factor = _inverse_factor(hessian)
    steps = scales.double().expand(groups, outputs, 1)
    points = torch.empty_like(left)
    for start in range(0, taps, how.block):
        stop = min(start + how.block, taps)
        errors = left.new_zeros((groups, outputs, stop - start))
        for i in range(start, stop):
            column = left[:, :, i : i + 1]
            rounded = (column / steps).round().clamp(-limit, limit) * kept[:, :, i : i + 1]
            points[:, :, i : i + 1] = rounded
            error = (column - rounded * steps) / factor[:, i, i, None, None]
            left[:, :, i:stop] -= error * factor[:, i, None, i:stop]
            errors[:, :, i - start : i - start + 1] = error
        left[:, :, stop:] -= errors @ factor[:, start:stop, stop:]
    return torch.empty_like(points).scatter_(2, there, points).float()


def _aim(weight: Tensor, hessian: Tensor, centred: Tensor, targets: Tensor) -> Tensor:
    """What to add to a weight so that it makes the targets of inputs that are not exact.

    By least squares, held back the more the fewer rows there are for a weight.
    """
    rows, taps = centred.shape[1:]
    wanted = targets.double() - targets.double().mean(1, keepdim=True)
    residual = wanted - centred @ weight.transpose(1, 2)
    diagonal = hessian.diagonal(dim1=1, dim2=2)
    ridge = diagonal.mean(1, keepdim=True).expand(-1, taps) * (taps / rows)
    factor = torch.linalg.cholesky(hessian + torch.diag_embed(ridge))
    added: Tensor = torch.cholesky_solve(centred.transpose(1, 2) @ residual, factor)
    return added.transpose(1, 2)


def _inverse_factor(hessian: Tensor) -> Tensor:
    """The upper Cholesky factor of the inverse."""
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
    factor: Tensor = torch.linalg.cholesky(inverse, upper=True)
    return factor


# --- learned rounding -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Learning:
    """How rounding up or down is learned.

    steps: of Adam, of which the first fifth is without the regulariser.
    batch: rows in each.
    regulariser: weight of the term that drives every weight to one of its two points.
    rate: the learning rate.
    """

    steps: int
    batch: int
    regulariser: float
    rate: float


_ZETA, _GAMMA = 1.1, -0.1  # the sigmoid is stretched to this range, then cut off at 0 and 1
_FIRST_BETA, _LAST_BETA = 20.0, 2.0  # how flat the regulariser is in the middle, annealed
_FREE = 0.2  # of the steps


def learned_points(
    weight: Tensor,
    bias: Tensor,
    scales: Tensor,
    limit: int,
    inputs: Tensor,
    targets: Tensor,
    clamp: tuple[float, float] | None,
    how: Learning,
) -> Tensor:
    """Points by AdaRound (Nagel et al. 2020, arXiv:2004.10568), float32 in the shape of `weight`.

    Each weight goes to the point below or above it. Which, is found by gradient descent on the
    squared error of the outputs, behind `clamp` if there is one, with a rectified sigmoid between
    the two points and a regulariser, annealed, that ends at one of them.

    bias: float32[groups, outputs]; targets: float32[groups, rows, outputs].
    """
    below = (weight / scales).floor()
    share = (weight / scales - below).clamp(0.01, 0.99)
    place = torch.log((share - _GAMMA) / (_ZETA - share)).requires_grad_()
    kept = weight != 0.0
    before = nearest_points(weight, scales, limit)
    noise = _loss(before * scales, bias, inputs, targets, clamp).clamp(min=1e-30)
    factor = how.regulariser / weight.numel()
    optimizer = torch.optim.Adam([place], lr=how.rate)
    generator = torch.Generator().manual_seed(0)
    rows = inputs.shape[1]
    for step in range(how.steps):
        chosen = torch.randint(rows, (min(how.batch, rows),), generator=generator)
        with torch.enable_grad():
            soft = _rectified(place)
            points = (below + soft).clamp(-limit, limit) * kept
            loss = _loss(points * scales, bias, inputs[:, chosen], targets[:, chosen], clamp)
            loss = loss / noise
            if (beta := _beta(step, how.steps)) is not None:
                loss = loss + factor * (1.0 - (2.0 * soft - 1.0).abs().pow(beta)).sum()
            optimizer.zero_grad()
            loss.backward()
        optimizer.step()
    with torch.no_grad():
        return (below + (_rectified(place) >= 0.5)).clamp(-limit, limit) * kept


def _rectified(place: Tensor) -> Tensor:
    return (torch.sigmoid(place) * (_ZETA - _GAMMA) + _GAMMA).clamp(0.0, 1.0)


def _beta(step: int, steps: int) -> float | None:
    """The exponent at a step; None while there is no regulariser."""
    free = _FREE * steps
    if step < free:
        return None
    done = (step - free) / max(steps - free, 1.0)
    return _LAST_BETA + (_FIRST_BETA - _LAST_BETA) * max(1.0 - done, 0.0)


def _loss(
    weight: Tensor,
    bias: Tensor,
    inputs: Tensor,
    targets: Tensor,
    clamp: tuple[float, float] | None,
) -> Tensor:
    made = torch.baddbmm(bias[:, None], inputs, weight.transpose(1, 2))
    wanted = targets
    if clamp is None:
        error = made - wanted
        error = error - error.mean(1, keepdim=True)
    else:
        error = made.clamp(*clamp) - wanted.clamp(*clamp)
    return error.square().sum(2).mean()

"""Pairs of weights that two products of bytes in 16 bits are exact for.

Where x86 CPUs have no VNNI, the instruction that multiplies bytes fastest, `pmaddubsw`, adds two
products of a uint8 and an int8 in 16 bits, and saturates. 255 * 128 fits, so both weights of a pair
may be used with it if those of one sign add up to `PAIR_LIMIT` at most. Weights of different signs
never pull in one direction.

Which weights form a pair is a property of the weight, the same for every target: those numbered
2i and 2i + 1, from 0, in each row of

- the inputs of an output, in linear layers;
- a kernel's row with all input channels of the group at each place, in convolutions; so these are
  channels 2i and 2i + 1 at one place, if their number is even;
- a kernel's column, where a group has one input channel, as in depthwise convolutions.

In a row of odd length, the last weight is alone. Weights here are [out, in/groups, *kernel].
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

PAIR_LIMIT = 128
"""The most that two weights of one sign may add up to: 32767 // 255."""
_MOST = PAIR_LIMIT - 1


def paired(weight: Tensor) -> Tensor:
    """The pairs of each output, [out, pairs, 2], of the same dtype; 0 beside one that is alone.

    weight: [out, in/groups, *kernel], of any dtype.
    """
    rows = _rows(weight)
    rows = F.pad(rows, (0, rows.shape[-1] % 2))
    return rows.reshape(weight.shape[0], rows[0].numel() // 2 if len(rows) else 0, 2)


def unpaired(pairs: Tensor, like: Tensor) -> Tensor:
    """What `paired` was given, a weight in the shape of `like`."""
    rows = _rows(like)
    size = rows.shape[-1]
    found = pairs.reshape(*rows.shape[:-1], size + size % 2)[..., :size]
    if like.dim() == 2:
        return found
    if _is_alone(like):
        return found.movedim(-1, 2)
    columns: Tensor = found.unflatten(-1, (like.shape[-1], like.shape[1]))
    return columns.movedim(-1, 1)


def widest_pairs(weight: Tensor) -> Tensor:
    """The most that a pair of one sign adds up to in magnitude, for each output: [out]."""
    pairs = paired(weight)
    sums = torch.stack([pairs.clamp(min=0).sum(2), pairs.clamp(max=0).sum(2).neg()])
    return sums.amax((0, 2)) if sums.numel() else weight.new_zeros(len(weight))


def are_safe(points: Tensor) -> bool:
    """Whether all pairs of integer weights, of any dtype, keep to `PAIR_LIMIT`."""
    return not points.numel() or int(widest_pairs(points.to(torch.int32)).max()) <= PAIR_LIMIT


def safe_points(points: Tensor, places: Tensor) -> Tensor:
    """Grid points whose pairs are safe: `points`, but those nearest to `places` where they are not.

    points, places: a weight in units of its scale, floats: on the grid, from -127 to 127, and
    before it was rounded. Of an unsafe pair, those two points are taken that add up to the limit
    and have the least squared distance, halves to even. 0 stays 0.
    """
    rounded = paired(points)
    first, second = rounded.unbind(-1)
    unsafe = (first * second > 0) & ((first + second).abs() > PAIR_LIMIT)
    if not bool(unsafe.any()):
        return points
    a, b = paired(places).abs().clamp(max=_MOST).unbind(-1)
    nearest = ((a - b + PAIR_LIMIT) / 2).round().clamp(1, _MOST)
    nearest = torch.stack([nearest, PAIR_LIMIT - nearest], -1) * rounded.sign()
    return unpaired(torch.where(unsafe[..., None], nearest, rounded), points)


def swap_groups(tensor: Tensor, groups: int) -> Tensor:
    """[groups * a, b, ...] as [groups * b, a, ...]: inputs first as outputs first, and back."""
    first, second, *kernel = tensor.shape
    split = tensor.reshape(groups, first // groups, second, *kernel)
    return split.transpose(1, 2).reshape(groups * second, first // groups, *kernel)


def _is_alone(weight: Tensor) -> bool:
    return weight.dim() > 2 and weight.shape[1] == 1


def _rows(weight: Tensor) -> Tensor:
    """The weight in rows of which pairs are made, [out, ..., row]."""
    if weight.dim() == 2:
        return weight
    if _is_alone(weight):
        return weight.movedim(2, -1)
    return weight.movedim(1, -1).flatten(-2)

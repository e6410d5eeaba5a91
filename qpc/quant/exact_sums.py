"""Sums of products of integers by floating-point kernels, exact because every partial sum is.

A float32 holds every integer up to 2**24, a float64 up to 2**53. Where the magnitudes of all the
products of one sum add up to no more than that, each product and each partial sum is an integer
that is held exactly, in whatever order and with whatever fusion of operations a kernel adds them
up. That is proven here from the real weights, and from the range of the type of the values. Sums
that are too long are formed in pieces.

It takes kernels that do nothing but multiply and add: minimal filtering (Winograd) works with
fractions, and whoever calls this must rule it out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from qpc.quant.arithmetic import wrap_int32

LARGEST_EXACT = 2**24
"""Up to here float32 holds every integer."""
_INT32 = 2**31 - 1
_GREATEST_WEIGHT = 128  # as models of others may have, the magnitude of -128

Product = Callable[[Tensor, Tensor], Tensor]
"""Sums of products of values and weights of one float type, in that type."""


def exact_sums(
    product: Product,
    q: Tensor,
    weight: Tensor,
    bias: Tensor,
    zero_point: int,
    *,
    axis: int | None,
    output_axis: int = 0,
    single: bool = True,
) -> Tensor:
    """Return `product(q - zero_point, weight) + bias` as int32, modulo 2**32 as hardware does.

    q: uint8 or int8; weight: int8; bias: int32, as it broadcasts over the result.
    axis: that of `q` which the sums run along, and axis 1 of the weight with it; None if they
    cannot be formed in pieces. output_axis: the axis of the weight that runs over sums.
    single: whether float32 kernels multiply and add, and do nothing else; otherwise all is float64.
    """
    ends = torch.iinfo(q.dtype)
    largest = max(ends.max - zero_point, zero_point - ends.min)
    if not single or q.numel() == 0 or weight.numel() == 0:
        whole = product(q.to(torch.float64) - zero_point, weight.to(torch.float64))
        return wrap_int32(whole + bias)
    centred = q.to(torch.float32).sub_(zero_point)
    rows = weight.movedim(output_axis, 0).flatten(1)
    sums = _Sums(product, largest, axis, weight[0, 0].numel())
    total, bound = sums.of(centred, weight, rows)
    if bound + int(bias.to(torch.int64).abs().max()) > _INT32:
        return wrap_int32(total.to(torch.int64) + bias)
    return total.to(torch.int32).add_(bias)


@dataclass(frozen=True)
class _Sums:
    """Exact sums of products, in as many pieces as it takes.

    largest: magnitude of the values. taps: weights of one sum for each index of axis 1.
    """

    product: Product
    largest: int
    axis: int | None
    taps: int

    def of(self, values: Tensor, weight: Tensor, rows: Tensor) -> tuple[Tensor, int]:
        """The sums, as integers of any type, and what none of them exceeds.

        rows: the weights of one sum each; as int8, or their magnitudes.
        """
        bound = self.largest * _GREATEST_WEIGHT * rows.shape[1]
        if bound > LARGEST_EXACT:
            if rows.dtype is torch.int8:
                rows = rows.to(_wide(rows.shape[1])).abs_()
            bound = self.largest * int(rows.sum(1).max())
        if bound <= LARGEST_EXACT:
            return self.product(values, weight.to(torch.float32)), bound
        channels = weight.shape[1]
        if self.axis is None or channels == 1:
            exact = self.product(values.double(), weight.to(torch.float64))
            return exact.to(torch.int64), bound
        half = channels // 2
        first, second = (
            self.of(
                values.narrow(self.axis, start, length),
                weight.narrow(1, start, length),
                rows.narrow(1, start * self.taps, length * self.taps),
            )
            for start, length in ((0, half), (half, channels - half))
        )
        total = first[0].to(torch.int64 if bound > _INT32 else torch.int32)
        return total.add_(second[0].to(total.dtype)), bound


def _wide(length: int) -> torch.dtype:
    """A type in which so many magnitudes of weights add up exactly."""
    return torch.float32 if _GREATEST_WEIGHT * length <= LARGEST_EXACT else torch.float64

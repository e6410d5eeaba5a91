"""Which weights are masked together: single ones, blocks, kernels, rows or columns.

A granularity cuts weight[out, in, *kernel] into pieces, gives each piece a score, and spreads a
decision for each piece over its weights. Scores have the axes [out pieces, in pieces, ...], so that
rules that look along input channels, such as 2:4, work on pieces as they do on single weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from qpc.families import Family
from qpc.settings import require_choice, require_count

NormName = Literal["l1", "l2"]


@runtime_checkable
class Granularity(Protocol):
    """What `MaskWeights` asks of a granularity."""

    def scores(self, weight: Tensor) -> Tensor:
        """The importance of every piece of weight[out, in, *kernel]."""

    def spread(self, keep: Tensor, shape: torch.Size) -> Tensor:
        """Decisions of the shape of the scores, as bool of the weight's shape."""


GRANULARITIES = Family("granularity", Granularity, group="qpc.granularities")
"""Granularities by name."""


@GRANULARITIES.named("elements")
@dataclass(frozen=True)
class Elements:
    """Every weight by itself, scored by its absolute value."""

    def scores(self, weight: Tensor) -> Tensor:
        return weight.abs()

    def spread(self, keep: Tensor, shape: torch.Size) -> Tensor:
        return keep.reshape(shape)


@GRANULARITIES.named("blocks")
@dataclass(frozen=True)
class Blocks:
    """Blocks of `outputs` x `inputs` channels, as kernels with vector instructions read them.

    outputs, inputs: the size of a block; blocks at the edges are smaller. None: the whole axis.
    whole_kernels: a block covers all kernel positions; otherwise each position has its own blocks.
    norm: "l1", the sum of absolute values, or "l2", the root of the sum of squares.
    average: divide the norm by what a block of that many ones would have, so that blocks of
    different sizes compare: smaller ones at the edges, or those of different layers.
    """

    outputs: int | None = 16
    inputs: int | None = 4
    whole_kernels: bool = False
    norm: NormName = "l2"
    average: bool = False

    def __post_init__(self) -> None:
        for name in ("outputs", "inputs"):
            size = getattr(self, name)
            if size is not None:
                require_count(name, size)
        require_choice("norm", self.norm, ("l1", "l2"))

    def scores(self, weight: Tensor) -> Tensor:
        power = weight.double().abs() if self.norm == "l1" else weight.double().square()
        total = self._sums(power)
        if self.average:
            total = total / self._sums(torch.ones_like(power))
        return total if self.norm == "l1" else total.sqrt()

    def spread(self, keep: Tensor, shape: torch.Size) -> Tensor:
        sizes = self._sizes(shape)
        for axis in (0, 1):
            keep = keep.repeat_interleave(sizes[axis], axis).narrow(axis, 0, shape[axis])
        return keep.expand(shape).clone()

    def _sizes(self, shape: torch.Size) -> tuple[int, int]:
        return self.outputs or shape[0], self.inputs or shape[1]

    def _sums(self, values: Tensor) -> Tensor:
        """Sums over blocks: [out blocks, in blocks, *kernel], or kernel axes of length 1."""
        if self.whole_kernels and values.dim() > 2:
            values = values.sum(tuple(range(2, values.dim())), keepdim=True)
        (outputs, inputs), kernel = self._sizes(values.shape), values.shape[2:]
        missing = (0, -values.shape[1] % inputs, 0, -values.shape[0] % outputs)
        padded = F.pad(values, (*[0] * (2 * len(kernel)), *missing))
        rows, columns = padded.shape[0] // outputs, padded.shape[1] // inputs
        return padded.reshape(rows, outputs, columns, inputs, *kernel).sum((1, 3))


def kernels(norm: NormName = "l2", *, average: bool = False) -> Blocks:
    """Whole kernels: all positions of one input and one output channel."""
    return Blocks(1, 1, whole_kernels=True, norm=norm, average=average)


def rows(norm: NormName = "l2", *, average: bool = False) -> Blocks:
    """Whole rows: everything that makes one output channel."""
    return Blocks(1, None, whole_kernels=True, norm=norm, average=average)


def columns(norm: NormName = "l2", *, average: bool = False) -> Blocks:
    """Whole columns: everything that one input channel is multiplied by."""
    return Blocks(None, 1, whole_kernels=True, norm=norm, average=average)

"""Grids that follow the values: ranges that are moving averages of what training sees.

At every step of training the range of the values of a batch moves the average,

    lo <- decay * lo + (1 - decay) * min(x),    hi <- decay * hi + (1 - decay) * max(x)

and the grid spans the average from then on, as `QParams.from_range` makes it. Jacob et al. 2018,
arXiv:1712.05877, section 3.1. A decay of 0 is the range of this very batch, which they take for
weights. Several values that share a grid have an average each, and the grid spans them all.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qpc.quant.fake_quantization import Rounding
from qpc.quant.grid import LARGEST_SCALE, SMALLEST_SCALE
from qpc.quant.pairs import PAIR_LIMIT, swap_groups, widest_pairs


@dataclass(frozen=True)
class Following:
    """The averages behind a grid, and the grid, which are all changed in place.

    range: float32[values, 2, steps], the least and the greatest of each value that shares the grid.
    member: which of these values it is.
    decay: the weight of the past.
    symmetric: the zero point is the middle of the grid.
    synchronized: the processes of the default group of torch.distributed see one batch together.
    """

    range: Tensor
    member: int
    decay: float
    symmetric: bool
    synchronized: bool

    def update(self, x: Tensor, grid: Rounding) -> None:
        """Take the range of `x` into the average, and bring `grid` to it.

        Batches that are empty, or hold NaN or infinity, change nothing.
        """
        ends = _ends(x, grid)
        ends[:, ~ends.isfinite().all(0)] = -torch.inf
        if self.synchronized:
            _largest_of_all_processes(ends)
        ends[0].neg_()
        average = self.range[self.member]
        moved = average.lerp(ends, 1.0 - self.decay)
        average.copy_(torch.where(ends.isfinite().all(0), moved, average))
        self._span(grid)

    def _span(self, grid: Rounding) -> None:
        """Bring steps and zero points to the range; as `QParams.from_range`, for many at once."""
        low = self.range[:, 0].double().amin(0).clamp(max=0.0)
        high = self.range[:, 1].double().amax(0).clamp(min=0.0)
        middle = (grid.lo + grid.hi + 1) // 2
        if self.symmetric:
            exact = torch.maximum(-low, high) / (grid.hi - middle)
        else:
            exact = (high - low) / (grid.hi - grid.lo)
        legal = exact.clamp(SMALLEST_SCALE, LARGEST_SCALE).float()
        is_weight = middle == 0 and grid.lo == -grid.hi
        # a channel of zero weights takes the finest step that its bias allows, once it is frozen
        empty = SMALLEST_SCALE if is_weight else 1.0
        step = torch.where(exact == 0.0, empty, legal)
        grid.step.copy_(step.reshape(grid.step.shape))
        zero = (grid.lo - low / step.double()).round().clamp(grid.lo, grid.hi)
        zero = torch.full_like(zero, middle) if self.symmetric else zero
        grid.zero_point.copy_(zero.reshape(grid.zero_point.shape))


def _ends(x: Tensor, grid: Rounding) -> Tensor:
    """[minus the least, the greatest] for each step: float32[2, steps]; NaN if there are none."""
    steps = grid.step.numel()
    if not x.numel():
        return x.new_full((2, steps), torch.nan)
    if steps == 1:  # many times as fast as along an axis
        least, greatest = (end.reshape(1) for end in torch.aminmax(x))
    else:
        least, greatest = torch.aminmax(grid.rows(x), dim=1)
    ends = torch.stack([-least, greatest])
    return torch.maximum(ends, _pair_end(x, grid)) if grid.safe_pairs else ends


def _pair_end(x: Tensor, grid: Rounding) -> Tensor:
    """What must lie within the grid for pairs of a weight to be safe, for each step."""
    first = swap_groups(x, grid.groups) if grid.axis == 1 else x
    sums = widest_pairs(first.detach())
    sums = sums.amax(0, keepdim=True) if grid.step.numel() == 1 else sums
    return sums * (grid.hi / PAIR_LIMIT)


def _largest_of_all_processes(values: Tensor) -> None:
    distributed = torch.distributed
    if not distributed.is_available() or not distributed.is_initialized():
        return
    if distributed.get_world_size() > 1:
        distributed.all_reduce(values, op=distributed.ReduceOp.MAX)

"""The gradients of a tensor that is rounded to one grid, block by block.

Each takes half a dozen passes over the tensor. Done for blocks that stay in the cache, they read
and write memory once, and need no other tensor of that size but the result.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

_BLOCK = 2**17
"""Values of a block: 512 KiB, so that the two tensors that it is computed in stay in the cache, and
few enough calls are made that these cost nothing."""
_hardtanh_backward = torch.ops.aten.hardtanh_backward.grad_input


@dataclass(frozen=True)
class Blocks:
    """What rounding did, and the gradient at its result.

    x: what was rounded, and gradient: both float32, on the CPU, of the same shape.
    inverse: float32(1 / step); ends: the lowest and the highest point, with 0.0 at zero.
    """

    x: Tensor
    gradient: Tensor
    inverse: float
    ends: tuple[float, float]

    def inside(self) -> Tensor:
        """The gradient at `x`: that at the result where `x` lies within the grid, 0 elsewhere."""
        result, parts = self._parts()
        for x, gradient, made, scaled, _ in parts:
            torch.mul(x, self.inverse, out=scaled)
            _hardtanh_backward(gradient, scaled, *self.ends, grad_input=made)
        return result

    def sums(self, *, of_clipped: bool) -> tuple[Tensor, Tensor, Tensor]:
        """`inside`, the gradient at the step, and the sum of the gradients that were clipped.

        of_clipped: whether the last one is asked for; else it is 0.
        """
        found = self._sums(of_clipped=of_clipped, with_nan=False)
        return found if bool(found[1].isfinite()) else self._sums(of_clipped=True, with_nan=True)

    def _sums(self, *, of_clipped: bool, with_nan: bool) -> tuple[Tensor, Tensor, Tensor]:
        """with_nan: whether to look for NaN, which is the lowest point: most tensors have none."""
        result, parts = self._parts()
        lowest, highest = self.ends
        sums, clipped_sums = [torch.zeros(())], [torch.zeros(())]
        for x, gradient, made, scaled, points in parts:
            torch.mul(x, self.inverse, out=scaled)
            if with_nan:
                scaled.nan_to_num_(lowest, highest, lowest)
            _hardtanh_backward(gradient, scaled, lowest, highest, grad_input=made)
            within = scaled.clamp_(lowest, highest)
            torch.round(within, out=points)
            error = torch.sub(points, within, out=within)  # 0 where it is clipped
            sums.append(torch.dot(gradient, error))
            clipped = torch.sub(gradient, made, out=error)
            sums.append(torch.dot(clipped, points))
            if of_clipped:
                clipped_sums.append(clipped.sum())
        return result, torch.stack(sums).sum(), torch.stack(clipped_sums).sum()

    def _parts(self) -> tuple[Tensor, Iterator[tuple[Tensor, ...]]]:
        """The result, and blocks of x, gradient, result and of two tensors to work in."""
        x = self.x if _is_dense(self.x) else self.x.contiguous()
        result = torch.empty_like(x)
        gradient = self.gradient
        if gradient.stride() != x.stride():
            gradient = torch.empty_like(x).copy_(gradient)
        flat = [_in_memory_order(tensor) for tensor in (x, gradient, result)]
        return result, _blocks(flat)


def _blocks(flat: list[Tensor]) -> Iterator[tuple[Tensor, ...]]:
    work = torch.empty(2, min(_BLOCK, flat[0].numel()))
    for start in range(0, flat[0].numel(), _BLOCK):
        parts = [tensor[start : start + _BLOCK] for tensor in flat]
        size = parts[0].numel()
        yield *parts, work[0, :size], work[1, :size]


def _is_dense(x: Tensor) -> bool:
    return x.is_contiguous() or (
        x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
    )


def _in_memory_order(x: Tensor) -> Tensor:
    return x.view(-1) if x.is_contiguous() else x.permute(0, 2, 3, 1).view(-1)

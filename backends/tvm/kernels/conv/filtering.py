"""Minimal filtering (Winograd): convolutions of 3x3 with fewer multiplications, in integers.

Winograd's F(m x m, 3 x 3) of Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks"
(2015): patches of inputs and kernels are transformed, multiplied place by place, summed over the
input channels, and the sums are transformed back to m x m outputs. F(2x2) takes 16 multiplications
in place of 36, F(4x4) 36 in place of 144.

The transforms of kernels have fractions. Here their rows are scaled to integers, so that outputs
come times `factor` squared, modulo 2**32, exactly. Its odd part is divided out by its inverse, the
power of two by a shift; for that, outputs must leave as many bits free.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from qpc.runtime.kernel_transform import FOUR_BY_FOUR, TAPS, TWO_BY_TWO, KernelTransform

Line: TypeAlias = Sequence[Any]
Keep: TypeAlias = Callable[[Any], Any]
"""Called with what is used more than once; returns the same value, in a variable."""

Transform: TypeAlias = Callable[[Line, Keep], list[Any]]


@dataclass(frozen=True)
class Filtering:
    """F(out x out, 3 x 3).

    All transforms are done in one dimension, then in the other. kernel: that of a kernel. inputs,
    outputs: those of a line of inputs, and of sums; of all that can be added and subtracted.
    Inputs of 8 bits become 16 bits; outputs are right modulo 2**32.
    """

    out: int
    factor: int
    kernel: KernelTransform
    inputs: Transform
    outputs: Transform

    @property
    def size(self) -> int:
        """Rows and columns of a patch."""
        return self.out + TAPS - 1

    @property
    def places(self) -> int:
        """Places of a patch, and multiplications for each."""
        return self.size**2

    @cached_property
    def shift(self) -> int:
        """The power of two in what outputs are multiplied by."""
        square = self.factor**2
        return (square & -square).bit_length() - 1

    @cached_property
    def inverse(self) -> int:
        """What undoes the odd part of it, modulo 2**32."""
        return pow(self.factor**2 >> self.shift, -1, 2**32)

    def weights(self, weight: npt.NDArray[np.int8]) -> npt.NDArray[np.int16]:
        """weight[o, c, 3, 3] -> [place, o, c]."""
        taps = weight.reshape(*weight.shape[:2], TAPS**2).transpose(2, 0, 1)
        result: npt.NDArray[np.int16] = self.spread(taps[np.newaxis])[0]
        return result

    @property
    def kernel_rows(self) -> tuple[tuple[int, int, int], ...]:
        """The transform of kernels in one dimension, as a matrix."""
        return self.kernel.rows

    def spread(self, taps: npt.NDArray[np.int8]) -> npt.NDArray[np.int16]:
        """taps[unit, 9, ...] -> [unit, place, ...]: transforms the second dimension."""
        return self.kernel.spread(taps)

    def fits(self, weight: npt.NDArray[np.int8], activation: str = "uint8") -> bool:
        """Whether outputs leave enough bits free, whatever the inputs of that type are."""
        wide = weight.astype(np.int64)
        positive, negative = (np.maximum(sign * wide, 0).sum((1, 2, 3)) for sign in (1, -1))
        limits = np.iinfo(activation)
        up, down = int(limits.max), -int(limits.min)
        sums = np.maximum(up * positive + down * negative, down * positive + up * negative)
        largest = int(sums.max(initial=0))
        return bool(largest < 2 ** (31 - self.shift))


def _four(value: Any, keep: Keep) -> Any:
    twice = keep(value + value)
    return twice + twice


def _inputs_2(line: Line, keep: Keep) -> list[Any]:
    a, b, c, d = line
    return [a - c, b + c, c - b, b - d]


def _outputs_2(line: Line, keep: Keep) -> list[Any]:
    a, b, c, d = line
    return [a + b + c, b - c - d]


def _inputs_4(line: Line, keep: Keep) -> list[Any]:
    a, b, c, d, e, f = line
    far, near = keep(e - c), keep(d - b)
    twice = keep(near + near)
    return [
        _four(a - c, keep) + far,
        (d + e) - _four(b + c, keep),
        _four(b - c, keep) + (e - d),
        far + twice,
        far - twice,
        (f - d) - (twice + twice),
    ]


def _outputs_4(line: Line, keep: Keep) -> list[Any]:
    a, b, c, d, e, f = line
    inner, outer = keep(b + c), keep(d + e)
    near, far = keep(b - c), keep(d - e)
    twice = keep(far + far)
    return [
        a + inner + outer,
        near + twice,
        inner + _four(outer, keep),
        near + _four(twice, keep) + (f + f),
    ]


FILTERINGS: Mapping[int, Filtering] = {
    2: Filtering(2, 2, TWO_BY_TWO, _inputs_2, _outputs_2),
    4: Filtering(4, 24, FOUR_BY_FOUR, _inputs_4, _outputs_4),
}
"""By rows and columns of outputs."""

"""Transposed convolutions along an axis as ordinary ones.

Outputs whose place leaves the same rest modulo the stride, a *phase*, meet the same taps of the
kernel. So every phase is a convolution of stride 1 with these taps, in reverse order.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, gcd


@dataclass(frozen=True)
class Phase:
    """Outputs `first`, `first + stride`, ... along an axis, as a convolution of stride 1.

    taps: which taps of the kernel it has, in the order of the inputs they meet; none if no input
    reaches these outputs. before, after: padding; negative numbers crop.
    """

    first: int
    taps: tuple[int, ...]
    dilation: int
    before: int
    after: int


@dataclass(frozen=True)
class Axis:
    """A transposed convolution along one axis."""

    inputs: int
    kernel: int
    stride: int
    padding: int
    output_padding: int
    dilation: int

    @property
    def outputs(self) -> int:
        """Number of outputs."""
        reach = self.dilation * (self.kernel - 1) + self.output_padding + 1
        return (self.inputs - 1) * self.stride - 2 * self.padding + reach

    @property
    def phases(self) -> tuple[Phase, ...]:
        """The phases that have outputs."""
        return tuple(self._phase(first) for first in range(min(self.stride, self.outputs)))

    def _phase(self, first: int) -> Phase:
        """Output y gets input i through tap k where `y + padding = i * stride + k * dilation`."""
        count = ceil((self.outputs - first) / self.stride)
        place = first + self.padding
        taps = [k for k in range(self.kernel) if (place - k * self.dilation) % self.stride == 0]
        if not taps:
            return Phase(first, (), 1, 0, count - self.inputs)
        # From one tap of a phase to the next, the input that it meets moves by `step`.
        step = self.dilation // gcd(self.dilation, self.stride)
        before = (taps[-1] * self.dilation - place) // self.stride
        reach = (len(taps) - 1) * step + 1
        after = count - 1 + reach - self.inputs - before
        return Phase(first, tuple(reversed(taps)), step, before, after)

"""The grids of tensors in an exported model, which forms write as nodes, as JSON, or not at all."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TensorGrid:
    """The grid of one tensor: `real = (integer - zero_point) * scale`.

    tensor: its name in the model, which is that of the value in the traced graph, or of the
    parameter.
    scales: exact float32 values, one, or one for each index of `axis`.
    zero_point: that of all of them. lo, hi: the lowest and highest integer.
    parameter: whether it is a weight, not a value that is computed.
    """

    tensor: str
    scales: tuple[float, ...]
    zero_point: int
    lo: int
    hi: int
    axis: int | None = None
    parameter: bool = False

    @property
    def bits(self) -> int:
        """How many bits the integers need."""
        return (self.hi - self.lo).bit_length()

    @property
    def symmetric(self) -> bool:
        """Whether zero is in the middle of the grid."""
        return self.zero_point == self.lo + (1 << (self.bits - 1))

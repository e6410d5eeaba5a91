"""Grids of values and weights that another tool chose, before anything is planned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor
from torch.fx import Node

from qpc.quant.grid import QParams


@dataclass(frozen=True)
class WeightGrid:
    """The symmetric grid of a weight.

    scales: float32[1], or one for each index of `axis`. lo, hi: the lowest and highest integer.
    """

    scales: Tensor
    lo: int
    hi: int
    axis: int = 0

    @property
    def bits(self) -> int:
        """How many bits its integers need."""
        return self.hi.bit_length() + 1


@dataclass(frozen=True)
class GivenGrids:
    """Which grids are given.

    values: those of values, by the node that makes them.
    weights: those of weights, by the layer that reads them.
    kept: operators that are to stay in float, with the reason.
    """

    values: Mapping[Node, QParams] = field(default_factory=dict)
    weights: Mapping[Node, WeightGrid] = field(default_factory=dict)
    kept: Mapping[Node, str] = field(default_factory=dict)

    def agree(self, source: Node, reader: Node) -> bool:
        """Whether `source` may have the grid of `reader`: it has no other of its own."""
        own = self.values.get(source)
        return own is None or own == self.values.get(reader)

"""A criterion and an observer outside of QPC, by public names alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.fx import GraphModule

from qpc.channels.flow import ParameterAxis
from qpc.pruning.criteria import CRITERIA, ParameterCriterion, rows
from qpc.quant.grid import Grid
from qpc.quant.observers import OBSERVERS, BaseObserver, State


@CRITERIA.named("largest-weight")
@dataclass(frozen=True)
class LargestWeight(ParameterCriterion):
    """The largest magnitude among a channel's weights, to a power."""

    power: float = 1.0

    def channel_scores(self, gm: GraphModule, axis: ParameterAxis) -> Tensor:
        """One score for each channel."""
        return rows(gm, axis).abs().amax(1) ** self.power


@OBSERVERS.named("first-batch")
class FirstBatch(BaseObserver):
    """The range of the first batch, widened by a factor."""

    kind: Literal["first-batch"] = "first-batch"
    widen: float = 1.0

    def init(self) -> State:
        """Nothing has been seen."""
        return {"ends": torch.tensor([torch.inf, -torch.inf])}

    def update(self, state: State, x: Tensor) -> State:
        """Look at the first batch only."""
        seen = bool(state["ends"][0] <= state["ends"][1])
        return state if seen else {"ends": torch.stack([x.min(), x.max()]).float()}

    def merge(self, a: State, b: State) -> State:
        """The first batch is that of the first shard that has one."""
        return a if bool(a["ends"][0] <= a["ends"][1]) else b

    def observed(self, state: State) -> tuple[float, float]:
        """The range of the first batch."""
        return float(state["ends"][0]), float(state["ends"][1])

    def clip(self, state: State, grid: Grid, symmetric: bool) -> tuple[float, float]:
        """The same, widened."""
        least, greatest = self.observed(state)
        return least * self.widen, greatest * self.widen

"""Which weights, or pieces of weights, stay, given the scores of all of them.

A rule gets the scores of all selected layers at once, axes [out, in, *kernel], and returns as many
bool tensors of the same shapes, True where a piece stays. Pieces that are masked already come with
a score of -1, below all others, so that ratios count them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from qpc.errors import ConfigError
from qpc.families import Family
from qpc.settings import require_choice, require_count, require_number

MASKED_ALREADY = -1.0
"""The score of a piece that has no weight left."""


@runtime_checkable
class WeightRule(Protocol):
    """What `MaskWeights` asks of a rule."""

    def keep(self, scores: Sequence[Tensor]) -> list[Tensor]:
        """Where pieces stay, for each tensor of scores."""


WEIGHT_RULES = Family("weight rule", WeightRule, group="qpc.weight_rules")
"""Rules by name."""


@WEIGHT_RULES.named("threshold")
@dataclass(frozen=True)
class Threshold:
    """What scores less than `value` goes.

    equal_stays: what scores exactly `value` stays (the strict rule, |w| < t goes); otherwise it
    goes too (|w| <= t goes).
    """

    value: float
    equal_stays: bool = True

    def __post_init__(self) -> None:
        require_number("value", self.value, 0)

    def keep(self, scores: Sequence[Tensor]) -> list[Tensor]:
        return [s >= self.value if self.equal_stays else s > self.value for s in scores]


@WEIGHT_RULES.named("ratio")
@dataclass(frozen=True)
class Ratio:
    """The given fraction of all pieces goes, those with the lowest scores.

    fraction: of the number of pieces, rounded half to even to a whole number of them.
    over: each "layer" by itself, or all layers of the "model" together.

    Among equal scores the ones at higher indices go, in later layers first.
    """

    fraction: float
    over: Literal["layer", "model"] = "layer"

    def __post_init__(self) -> None:
        require_number("fraction", self.fraction, 0, 1)
        require_choice("over", self.over, ("layer", "model"))

    def keep(self, scores: Sequence[Tensor]) -> list[Tensor]:
        if not scores:
            return []
        lines = [s.detach().flatten() for s in scores]
        if self.over == "layer":
            kept = [_greatest(line, len(line) - round(self.fraction * len(line))) for line in lines]
        else:
            line = torch.cat(lines)
            whole = _greatest(line, len(line) - round(self.fraction * len(line)))
            kept = list(whole.split([len(line) for line in lines]))
        return [k.reshape(s.shape) for k, s in zip(kept, scores, strict=True)]


@WEIGHT_RULES.named("n-of-m")
@dataclass(frozen=True)
class NOfM:
    """Of every `m` neighbours along the input channels the `n` with the greatest scores stay.

    `NOfM(2, 4)` is the 2:4 pattern of Mishra et al. 2021, arXiv:2104.08378. A tail of fewer than
    `m` channels keeps up to `n` of them, as if zeros were appended. Among equal scores the ones at
    lower indices stay.
    """

    n: int
    m: int

    def __post_init__(self) -> None:
        require_count("n", self.n)
        require_count("m", self.m)
        if self.n > self.m:
            raise ConfigError(f"n must be from 1 to m, got n={self.n}, m={self.m}")

    def keep(self, scores: Sequence[Tensor]) -> list[Tensor]:
        return [self._keep(s) for s in scores]

    def _keep(self, scores: Tensor) -> Tensor:
        moved = scores.detach().movedim(1, -1)
        *outer, channels = moved.shape
        below_all = torch.nn.functional.pad(
            moved, (0, -channels % self.m), value=2 * MASKED_ALREADY
        )
        blocks = below_all.reshape(*outer, -1, self.m)
        greatest = blocks.sort(dim=-1, descending=True, stable=True).indices[..., : self.n]
        kept = torch.zeros_like(blocks, dtype=torch.bool).scatter_(-1, greatest, True)
        return kept.reshape(*outer, -1)[..., :channels].movedim(-1, 1)


@WEIGHT_RULES.named("chosen")
@dataclass(frozen=True)
class Chosen:
    """The pieces at the given indices go, in every layer; scores do not matter.

    indices: into the scores, flattened: with `rows()` output channels, with `columns()` inputs.
    """

    indices: tuple[int, ...]

    def keep(self, scores: Sequence[Tensor]) -> list[Tensor]:
        return [self._keep(s) for s in scores]

    def _keep(self, scores: Tensor) -> Tensor:
        kept = torch.ones(scores.numel(), dtype=torch.bool, device=scores.device)
        if beyond := [i for i in self.indices if not 0 <= i < len(kept)]:
            raise ConfigError(f"there are {len(kept)} pieces, none with index {beyond[0]}")
        kept[list(self.indices)] = False
        return kept.reshape(scores.shape)


def _greatest(scores: Tensor, count: int) -> Tensor:
    """Where the `count` greatest of scores[n] are; lower indices win ties, and NaN beats all."""
    if count == 0:
        return torch.zeros_like(scores, dtype=torch.bool)
    line = scores if scores.dtype == torch.float64 else scores.float()
    line = line.nan_to_num(nan=torch.inf, posinf=torch.inf)
    least = line.kthvalue(len(line) - count + 1).values  # much faster than sorting
    above, equal = line > least, line == least
    return above | (equal & (equal.cumsum(0) <= count - above.sum()))

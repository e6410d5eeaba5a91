"""Penalties that push weights towards zero during training.

    loss = criterion(gm(x), target) + regularizer.penalty(gm)

A regularizer is a value; its penalty is a scalar that gradients flow through.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from qpc.channels.groups import ChannelAnalysis
from qpc.errors import PassError
from qpc.families import Family
from qpc.meta import attribute
from qpc.pruning.weight_layers import LayerWeight, Scope, float_layers
from qpc.settings import require_count, require_number


@runtime_checkable
class Regularizer(Protocol):
    """Anything with a penalty."""

    def penalty(self, gm: GraphModule) -> Tensor:
        """The penalty for the graph's parameters as they are, a differentiable scalar."""


REGULARIZERS = Family("regularizer", Regularizer, group="qpc.regularizers")
"""Regularizers by name."""


@REGULARIZERS.named("l1")
@dataclass(frozen=True)
class L1:
    """strength * sum of |w| over the weights of convolution and linear layers.

    Drives single weights to zero. Tibshirani 1996, "Regression shrinkage and selection via the
    lasso".
    """

    strength: float
    scope: Scope = field(default_factory=Scope)

    def __post_init__(self) -> None:
        require_number("strength", self.strength, 0)

    def penalty(self, gm: GraphModule) -> Tensor:
        return self.strength * _total([w.abs().sum() for w in _weights(gm, self.scope)])


@REGULARIZERS.named("l2")
@dataclass(frozen=True)
class L2:
    """strength * sum of w**2 over the weights of convolution and linear layers.

    Shrinks weights without making them zero; its gradient is that of a weight decay of
    2 * strength. Krogh and Hertz 1991, "A simple weight decay can improve generalization".
    """

    strength: float
    scope: Scope = field(default_factory=Scope)

    def __post_init__(self) -> None:
        require_number("strength", self.strength, 0)

    def penalty(self, gm: GraphModule) -> Tensor:
        return self.strength * _total([w.square().sum() for w in _weights(gm, self.scope)])


@REGULARIZERS.named("group-lasso")
@dataclass(frozen=True, eq=False)
class GroupLasso:
    """strength * sum over units u of sqrt(size of u) * norm of u.

    A unit is all that goes with one channel: the weights that make it, its bias and norm, and the
    weights that read it, in all layers that share it. Its norm falls to zero as a whole, so that
    the channel can be removed. Yuan and Lin 2006, "Model selection and estimation in regression
    with grouped variables"; for channels Wen et al. 2016, arXiv:1608.03665; for dependency groups
    Fang et al. 2023, arXiv:2301.12900.

    analysis: of the graph that is trained, by `analyze_channels`. Units that must stay are free.
    """

    strength: float
    analysis: ChannelAnalysis = field(repr=False)

    def __post_init__(self) -> None:
        require_number("strength", self.strength, 0)

    def penalty(self, gm: GraphModule) -> Tensor:
        squares, sizes = self._members.sums(gm)
        positive = squares > 0  # the gradient of the root is infinite at 0, where 0 will do
        norms = torch.where(positive, torch.where(positive, squares, 1.0).sqrt(), 0.0)
        return self.strength * (sizes.sqrt() * norms).sum()

    @cached_property
    def _members(self) -> _Members:
        return _members_of(self.analysis, None)


@REGULARIZERS.named("growing-l2")
@dataclass(frozen=True, eq=False)
class GrowingL2:
    """strength / 2 * sum of w**2 over the given units, with a strength that grows as training goes.

    Wang et al. 2021, arXiv:2012.09243. With the units that are to be removed this is their GReg-1:
    the network adapts gradually, and loses nothing when they go. Over all units it is their GReg-2:
    weights part by how much the loss needs them, which makes their magnitude a better criterion.

    analysis: of the graph that is trained, by `analyze_channels`.
    units: such as `masked_atoms(gm, analysis)`; None: all that may go.
    growth, every, ceiling: the strength is growth * (step // every), at most ceiling. The defaults
    are those of the authors' code for GReg-1 on ImageNet.
    step: the number of steps trained; `at` moves it on.
    """

    analysis: ChannelAnalysis = field(repr=False)
    units: frozenset[int] | None = field(default=None, repr=False)
    growth: float = 1e-4
    every: int = 5
    ceiling: float = 1.0
    step: int = 0

    def __post_init__(self) -> None:
        require_number("growth", self.growth, 0)
        require_number("ceiling", self.ceiling, 0)
        require_count("step", self.step, 0)
        require_count("every", self.every)

    @property
    def strength(self) -> float:
        """The strength at the present step."""
        return min(self.ceiling, self.growth * (self.step // self.every))

    def at(self, step: int) -> GrowingL2:
        """The same regularizer at another step."""
        moved = dataclasses.replace(self, step=step)
        moved.__dict__["_members"] = self._members  # the same units: no need to look again
        return moved

    def penalty(self, gm: GraphModule) -> Tensor:
        squares, _ = self._members.sums(gm)
        return self.strength / 2 * squares.sum()

    @cached_property
    def _members(self) -> _Members:
        return _members_of(self.analysis, self.units)


@dataclass(frozen=True)
class _Members:
    """Where units lie: for axes of parameters the unit's number at each index, `count` for none."""

    axes: tuple[tuple[str, int, Tensor], ...]
    count: int

    def sums(self, gm: GraphModule) -> tuple[Tensor, Tensor]:
        """For each unit the sum of the squares of its parameters, and how many they are."""
        squares = sizes = torch.zeros(self.count + 1)
        for name, axis, unit in self.axes:
            parameter = attribute(gm, name)
            if not isinstance(parameter, nn.Parameter):
                continue
            others = [a for a in range(parameter.dim()) if a != axis % parameter.dim()]
            line = parameter.square().sum(others) if others else parameter.square()
            unit, squares, sizes = (t.to(line.device) for t in (unit, squares, sizes))
            squares = squares.index_add(0, unit, line.to(squares.dtype))
            each = float(parameter.numel() // len(unit))
            sizes = sizes.index_add(0, unit, sizes.new_full(unit.shape, each))
        return squares[:-1], sizes[:-1]


def _members_of(analysis: ChannelAnalysis, units: frozenset[int] | None) -> _Members:
    free = {unit.atom for group in analysis.groups for unit in group.prunable}
    chosen = sorted(free if units is None else free & units)
    line = torch.tensor(chosen, dtype=torch.int64)
    axes = []
    for axis in analysis.axes:
        known = torch.isin(axis.labels, line)
        if bool(known.any()):
            number = torch.searchsorted(line, axis.labels.contiguous())
            axes.append((axis.name, axis.axis, torch.where(known, number, len(chosen))))
    return _Members(tuple(axes), len(chosen))


def _weights(gm: GraphModule, scope: Scope) -> list[Tensor]:
    layers = [layer for _, layer in float_layers(gm, scope) if isinstance(layer, LayerWeight)]
    if not layers:
        raise PassError(f"no layer with a weight is in {scope}")
    return [attribute(gm, layer.name) for layer in layers]


def _total(parts: list[Tensor]) -> Tensor:
    return torch.stack(parts).sum()

"""Mark the channels that are worth least, by a criterion and within an allocation.

Before:  conv1 -> relu -> conv2, no masks
After:   the same graph; a mask on conv1's output channels, True where a channel is to go
Keeps:   the graph and its outputs
Leaves:  channels that must stay, layers out of scope, channels the criterion cannot judge
Cost:    one run of the graph's data movement on labels, what the criterion costs, and for a target
         the estimate of each layer at up to 16 numbers of channels on either side: seconds

Whole units are chosen, and marked on the axes that make their channels; `propagate-masks` extends
the masks to everything else. Masks from before are replaced. Of a share of the model, as many go of
each group as make the allocation's target faster.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import partial

from torch.fx import GraphModule

from qpc.base import Pass, PassContext
from qpc.channels.cost import CostModel
from qpc.channels.groups import ChannelAnalysis, analyze_channels
from qpc.channels.masks import mask_made_units
from qpc.channels.times import TimeModel
from qpc.errors import PassError
from qpc.facts import CORE_FORM
from qpc.layers import integer_layer
from qpc.masks import MASKED
from qpc.pruning.allocation import Allocation, Choice
from qpc.pruning.criteria import Judge
from qpc.pruning.scored_groups import ScoredGroup, score_groups
from qpc.settings import require_kind, require_patterns


@dataclass(frozen=True)
class CreateMasks(Pass, name="create-masks", requires={CORE_FORM}, establishes={MASKED}):
    """Choose what to prune.

    criterion: what channels are worth, such as `L1()`, or any object with its method `scores`.
    allocation: how many go where, such as `Uniform(0.5)` or `Global(0.5, of="macs")`.
    heads: as in `PropagateMasks`, with which it must agree.
    """

    criterion: Judge
    allocation: Allocation
    heads: str | tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require_kind(
            "criterion", self.criterion, Judge, "an object with a method `scores`", fix="L1()"
        )
        require_kind("allocation", self.allocation, Allocation, "an Allocation", fix="Global(0.5)")
        require_patterns("heads", self.heads)

    def apply(self, gm: GraphModule, ctx: PassContext) -> bool:
        analysis = analyze_channels(gm, heads=self.heads)
        _require_channels(gm, analysis)
        groups = score_groups(gm, analysis, self.criterion, self.allocation.baseline)
        if any(scored.unknown for scored in groups) and not any(s.order for s in groups):
            raise PassError(f"{self.criterion!r} can judge no channel of this graph")
        times = self.allocation.times()
        choice = self.allocation.choose(
            groups,
            CostModel(gm, analysis),
            None if times is None else TimeModel(gm, analysis, times),
            partial(ctx.each, text="choosing channels"),
        )
        _report(groups, choice, self.allocation, ctx)
        _report_outside(analysis, ctx)
        return mask_made_units(gm, analysis, choice.removed)


def _require_channels(gm: GraphModule, analysis: ChannelAnalysis) -> None:
    """Raise PassError with the reasons if no channel may go."""
    if any(group.prunable for group in analysis.groups):
        return
    if any(integer_layer(node) is not None for node in gm.graph.nodes):
        raise PassError(
            "the graph has no channels to prune: its layers are integer operators",
            fix="prune the float graph that qpc.trace returned, then quantize it",
        )
    pinned = Counter(unit.pinned for group in analysis.groups for unit in group.units)
    stay = [f"{count} must stay: {why}" for why, count in pinned.most_common()]
    reasons = list(dict.fromkeys([*stay, *analysis.declined.values()]))
    shown = "; ".join(reasons[:_MOST]) or "no layer makes any"
    raise PassError(
        f"the graph has no channels to prune: {shown}",
        fix="prune models in which convolution or linear layers follow each other",
    )


def _report(
    groups: tuple[ScoredGroup, ...], choice: Choice, allocation: Allocation, ctx: PassContext
) -> None:
    for scored in groups:
        group = scored.group
        reasons = Counter(unit.pinned for unit in group.units if unit.pinned is not None)
        for why, count in reasons.items():
            ctx.decline(group.name, f"{count} of {len(group.units)} units must stay: {why}")
        if scored.unknown:
            ctx.decline(group.name, f"the criterion cannot judge {scored.unknown} units")
        if group.index in choice.out_of_scope:
            ctx.decline(group.name, "out of scope")
    touched = sum(not choice.removed.isdisjoint(scored.order) for scored in groups)
    total = sum(scored.units for scored in groups)
    text = f"{len(choice.removed)} of {total} units of channels masked in {touched} groups"
    if choice.reached is not None:
        text += f"; {choice.reached:.1%} of the {allocation.of} go"
        if abs(allocation.amount - choice.reached) > _TOLERANCE:
            ctx.warn(
                "the model",
                f"{choice.reached:.1%} of its {allocation.of} go, not {allocation.amount:.1%}: "
                "no nearer with what may go in whole units",
            )
        if choice.estimate is not None:
            text += f"; {choice.estimate}"
    elif allocation.amount and not choice.removed and not any(s.gone for s in groups):
        ctx.warn("the model", "nothing is pruned: see what was declined, and the allocation")
    ctx.summarize(text)


def _report_outside(analysis: ChannelAnalysis, ctx: PassContext) -> None:
    """What keeps channels out of all groups."""
    known = {unit.pinned for group in analysis.groups for unit in group.units}
    for node, why in analysis.declined.items():
        if why not in known:
            ctx.decline(node, why)


_MOST = 3  # reasons in an error
_TOLERANCE = 0.01  # of the model's total

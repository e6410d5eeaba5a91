"""Masks of units: made, completed and checked by one piece of knowledge about channels."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

import qpc
from qpc.channels.groups import analyze_channels
from qpc.channels.masks import (
    MASKS_PROPAGATED,
    mask_made_units,
    mask_units,
    masked_atoms,
    masked_units,
    spared_units,
)
from qpc.errors import InvariantError, PassError
from qpc.facts import CORE_FORM
from qpc.masks import MASKED, masks, set_mask
from qpc.passes import PropagateMasks


class Pair(nn.Module):
    """Two convolutions whose values are added."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.c(self.a(x) + self.b(x))
        return y


class Heads(nn.Module):
    """Six channels, split into three heads of two, each scaled by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        heads = self.first(x).reshape(-1, 4, 3, 2).transpose(1, 2)
        mixed = (heads @ heads.transpose(2, 3)).softmax(-1) @ heads
        y: Tensor = self.last(mixed.transpose(1, 2).reshape(-1, 4, 6))
        return y


def pair() -> GraphModule:
    return qpc.trace(Pair(), torch.randn(1, 3, 4, 4))


def marked(*channels: int, size: int = 4) -> Tensor:
    mask = torch.zeros(size, dtype=torch.bool)
    mask[list(channels)] = True
    return mask


def found(gm: GraphModule) -> dict[tuple[str, int], list[int]]:
    return {(name, axis): mask.nonzero().flatten().tolist() for name, axis, mask in masks(gm)}


def test_a_masked_channel_marks_its_unit_on_every_axis() -> None:
    gm = pair()
    analysis = analyze_channels(gm)
    set_mask(gm, "b.weight", 0, marked(2))
    mask_units(gm, analysis, masked_atoms(gm, analysis))
    assert found(gm) == {
        ("a.weight", 0): [2],
        ("a.bias", 0): [2],
        ("b.weight", 0): [2],
        ("b.bias", 0): [2],
        ("c.weight", 1): [2],
    }


def test_one_unit_is_spared_where_all_would_go() -> None:
    gm = pair()
    analysis = analyze_channels(gm)
    units = {unit.atom for group in analysis.groups for unit in group.prunable}
    assert spared_units(analysis, units) == [min(units)]
    assert spared_units(analysis, units - {max(units)}) == []


def test_units_are_masked_where_layers_make_them() -> None:
    gm = pair()
    analysis = analyze_channels(gm)
    set_mask(gm, "a.bias", 0, marked(2))
    units = masked_atoms(gm, analysis)
    assert mask_made_units(gm, analysis, units)
    assert found(gm) == {("a.weight", 0): [2], ("b.weight", 0): [2], ("c.weight", 0): []}
    assert not mask_made_units(gm, analysis, units)


def test_masks_that_are_not_whole_are_no_units() -> None:
    gm = pair()
    analysis = analyze_channels(gm)
    set_mask(gm, "a.weight", 0, marked(2))
    with pytest.raises(PassError, match=r"channels of 'a\.bias' along axis 0 would go with masked"):
        masked_units(gm, analysis)
    units = masked_atoms(gm, analysis)
    mask_units(gm, analysis, units)
    assert masked_units(gm, analysis) == units


# --- the fact that masks are propagated -----------------------------------------------------------


def thorough(gm: GraphModule) -> str | None:
    return MASKS_PROPAGATED.violation(gm, thorough=True)


def test_a_quick_look_only_asks_for_masks() -> None:
    gm = pair()
    assert thorough(gm) == "there is no channel mask"
    set_mask(gm, "a.weight", 0, marked(2))
    assert MASKS_PROPAGATED.violation(gm) is None


def test_masks_on_one_axis_of_several_are_not_propagated() -> None:
    gm = pair()
    set_mask(gm, "a.weight", 0, marked(2))
    assert thorough(gm) == (
        "channels of 'a.bias' along axis 0 would go with masked ones, but are not masked"
    )


def test_masks_of_what_must_stay_are_not_propagated() -> None:
    gm = pair()
    set_mask(gm, "a.weight", 1, marked(2, size=3))
    assert thorough(gm) == (
        "a masked channel of 'a.weight' along axis 1 has to stay: it is not prunable"
    )


def test_masks_that_empty_an_axis_are_not_propagated() -> None:
    gm = pair()
    analysis = analyze_channels(gm)
    mask_units(gm, analysis, {u.atom for group in analysis.groups for u in group.units})
    assert thorough(gm) == "all channels of 'a.weight' along axis 0 are masked"


@pytest.mark.parametrize(("heads", "channels"), [((), [0]), ("*", [0])])
def test_what_propagation_leaves_is_propagated_whatever_its_options(
    heads: str | tuple[str, ...], channels: list[int]
) -> None:
    gm = qpc.trace(Heads(), torch.randn(2, 4, 3))
    set_mask(gm, "first.weight", 0, marked(*channels, size=6))
    for prune_outputs in (False, True):
        pass_ = PropagateMasks(heads, prune_outputs)
        ctx = qpc.PassContext(thorough=True)
        done = qpc.Pipeline((pass_,), {CORE_FORM, MASKED}).run(gm, ctx)
        going = found(done)["first.weight", 0]
        assert going == ([0, 1] if heads else [0, 2, 4])


def test_a_thorough_pipeline_finds_the_pass_that_leaves_half_masks() -> None:
    class Forgetful(PropagateMasks, name="forgetful", establishes={MASKS_PROPAGATED}):
        """Propagates nothing."""

        def apply(self, gm: GraphModule, ctx: qpc.PassContext) -> bool:
            return False

    gm = pair()
    set_mask(gm, "a.weight", 0, marked(2))
    pipeline = qpc.Pipeline((Forgetful(),))
    pipeline.run(gm)
    with pytest.raises(InvariantError, match="after 'forgetful', fact 'masks-propagated' does not"):
        pipeline.run(gm, qpc.PassContext(thorough=True))

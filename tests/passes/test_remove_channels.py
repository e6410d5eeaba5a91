"""Masked channels are taken out of every tensor that has them, if the masks are complete."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

import qpc
from qpc.channels.masks import MASKS_PROPAGATED
from qpc.errors import PassError, PipelineOrderError
from qpc.facts import CORE_FORM
from qpc.masks import MASKED, masks, set_mask
from qpc.passes import PropagateMasks, RemoveChannels
from qpc.pruning.allocation import Uniform
from qpc.pruning.magnitude import L1
from qpc.testing import assert_graph, randomized, traced

IMAGE = torch.randn(1, 3, 4, 4)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(torch.relu(self.norm(self.conv(x))).mean((2, 3)))
        return y


def graph() -> GraphModule:
    return traced(randomized(Net()), IMAGE)


def masked(*channels: int, name: str = "conv.weight", propagated: bool = True) -> GraphModule:
    gm = graph()
    size = gm.get_parameter(name).shape[0]
    set_mask(gm, name, 0, torch.isin(torch.arange(size), torch.tensor(channels)))
    return qpc.Pipeline((PropagateMasks(),), {CORE_FORM, MASKED}).run(gm) if propagated else gm


def removed(gm: GraphModule, pass_: RemoveChannels | None = None) -> GraphModule:
    facts = {CORE_FORM, MASKS_PROPAGATED}
    return qpc.Pipeline((pass_ or RemoveChannels(),), facts).run(gm)


def test_everything_that_shares_the_channels_loses_them() -> None:
    before = masked(1, 3)
    after = removed(before)
    assert_graph(
        after,
        """
        graph:
          %x: f32[N, 3, 4, 4] = input
          %conv2d: f32[N, 2, 4, 4] = aten.conv2d(%x, @conv.weight, @conv.bias)  # conv
          %batch_norm: f32[N, 2, 4, 4] = aten.batch_norm(%conv2d, @norm.weight, @norm.bias, @norm.running_mean, @norm.running_var, False, 0.1, 1e-05, False)  # norm
          %relu: f32[N, 2, 4, 4] = aten.relu(%batch_norm)
          %mean: f32[N, 2] = aten.mean.dim(%relu, [2, 3])
          %linear: f32[N, 2] = aten.linear(%mean, @head.weight, @head.bias)  # head
          return %linear
        """,  # noqa: E501
    )
    old, new = before.state_dict(), after.state_dict()
    for name in ("conv.weight", "conv.bias", "norm.weight", "norm.bias", "norm.running_var"):
        assert torch.equal(new[name], old[name][[0, 2]])
    assert torch.equal(new["head.weight"], old["head.weight"][:, [0, 2]])
    assert torch.equal(new["head.bias"], old["head.bias"])
    assert not list(masks(after))


def test_the_output_is_that_of_the_graph_with_the_channels_set_to_zero() -> None:
    before = masked(1, 3)
    expected = graph()
    expected.load_state_dict(before.state_dict(), strict=False)
    with torch.no_grad():
        expected.get_parameter("head.weight")[:, [1, 3]] = 0
        torch.testing.assert_close(removed(before)(IMAGE), expected(IMAGE), rtol=1e-5, atol=1e-5)


def test_masks_that_mark_nothing_are_forgotten() -> None:
    before = masked()
    ctx = qpc.PassContext()
    after = qpc.Pipeline((RemoveChannels(),), {CORE_FORM, MASKS_PROPAGATED}).run(before, ctx)
    assert ctx.reports[-1].changed
    assert not list(masks(after))
    assert after.state_dict().keys() == graph().state_dict().keys()


def test_the_report_counts_units() -> None:
    ctx = qpc.PassContext()
    qpc.Pipeline((RemoveChannels(),), {CORE_FORM, MASKS_PROPAGATED}).run(masked(1, 3), ctx)
    assert ctx.reports[-1].summary == "2 units of channels removed"


def test_a_pruned_graph_trains_and_is_pruned_again() -> None:
    once = qpc.prune(graph(), L1(), Uniform(0.25))
    qpc.set_training(once)
    once(torch.randn(4, 3, 4, 4)).sum().backward()
    assert all(p.grad is not None and p.grad.shape == p.shape for p in once.parameters())
    qpc.set_training(once, mode=False)
    assert qpc.prune(once, L1(), Uniform(0.34)).get_parameter("conv.weight").shape[0] == 2


def test_outputs_go_if_both_passes_are_told_so() -> None:
    gm = masked(0, name="head.weight", propagated=False)
    passes = (PropagateMasks(prune_outputs=True), RemoveChannels(prune_outputs=True))
    pruned = qpc.Pipeline(passes, {CORE_FORM, MASKED}).run(gm)
    assert pruned(IMAGE).shape == (1, 1)


# --- masks that cannot be obeyed ------------------------------------------------------------------


@pytest.mark.forged
def test_masks_must_be_complete() -> None:
    gm = masked(1, propagated=False)
    message = "channels of 'conv.bias' along axis 0 would go with masked ones, but are not masked"
    with pytest.raises(PassError, match=message) as caught:
        removed(gm)
    assert caught.value.fix == "run propagate-masks with the same options just before"


@pytest.mark.forged
def test_a_mask_that_marks_too_few_is_named() -> None:
    gm = masked(1, 2)
    set_mask(gm, "norm.bias", 0, torch.tensor([False, True, False, False]))
    with pytest.raises(PassError, match=r"channels of 'norm\.bias' along axis 0 would go with"):
        removed(gm)


@pytest.mark.forged
def test_what_has_no_channels_cannot_be_masked() -> None:
    gm = masked(1)
    set_mask(gm, "conv.weight", 1, torch.tensor([True, False, False]))
    message = "a masked channel of 'conv.weight' along axis 1 has to stay: it is not prunable"
    with pytest.raises(PassError, match=message):
        removed(gm)


@pytest.mark.forged
def test_what_must_stay_is_refused_with_the_reason() -> None:
    gm = masked(0, name="head.weight", propagated=False)
    for name in ("head.weight", "head.bias"):
        set_mask(gm, name, 0, torch.tensor([True, False]))
    message = "of 'head.weight' along axis 0 has to stay: it reaches the output of the graph"
    with pytest.raises(PassError, match=message):
        removed(gm)


def test_a_pipeline_without_propagation_is_refused_when_it_is_built() -> None:
    with pytest.raises(PipelineOrderError, match="remove-channels"):
        qpc.Pipeline((RemoveChannels(),), {CORE_FORM})

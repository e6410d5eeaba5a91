"""Batch norms are measured anew: running statistics become the means over the batches given."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import qpc
from qpc.base import PassContext
from qpc.errors import CalibrationError
from qpc.meta import attribute
from qpc.passes import ReestimateBatchNorm
from qpc.pipeline import Pipeline

DATA = [torch.randn(8, 3, 4, 4) * (i + 1) + i for i in range(3)]


def model(*, track: bool = True) -> nn.Module:
    return nn.Sequential(nn.BatchNorm2d(3, track_running_stats=track), nn.ReLU())


def run(data: list[Tensor], *, track: bool = True) -> tuple[torch.fx.GraphModule, PassContext]:
    ctx = PassContext()
    gm = Pipeline((ReestimateBatchNorm(data),)).run(qpc.trace(model(track=track), DATA[0]), ctx)
    return gm, ctx


def test_statistics_are_means_over_batches() -> None:
    gm, ctx = run(DATA)
    mean = torch.stack([b.mean((0, 2, 3)) for b in DATA]).mean(0)
    variance = torch.stack([b.transpose(0, 1).flatten(1).var(1) for b in DATA]).mean(0)
    torch.testing.assert_close(attribute(gm, "0.running_mean"), mean)
    torch.testing.assert_close(attribute(gm, "0.running_var"), variance)
    assert ctx.reports[0].summary == "1 batch norms measured on 3 batches"


def test_the_graph_stays_in_inference_form() -> None:
    before = qpc.trace(model(), DATA[0])
    after = Pipeline((ReestimateBatchNorm(DATA),)).run(before)
    assert qpc.format_graph(after) == qpc.format_graph(before)


def test_declines_batch_norms_without_statistics() -> None:
    _, ctx = run(DATA, track=False)
    assert [r.text for r in ctx.declined] == ["batch norm keeps no running statistics"]


def test_a_failure_leaves_the_statistics_as_they_were() -> None:
    gm = qpc.trace(model(), DATA[0])
    before = qpc.fingerprint(gm)
    with pytest.raises(CalibrationError, match="batch 1 has shape"):
        ReestimateBatchNorm([DATA[0], torch.zeros(1)]).apply(gm, PassContext())
    assert qpc.fingerprint(gm) == before


def test_refuses_no_batches() -> None:
    with pytest.raises(CalibrationError, match="there are no batches to measure batch norms on"):
        run([])

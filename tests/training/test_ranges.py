"""Grids stop following in the middle of training, and their values are noted."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import qpc
from qpc.analysis.levels import fake_quantized
from qpc.errors import PassError
from qpc.passes import FollowRanges
from qpc.quant.config import LayerConfig, QuantConfig
from qpc.testing import randomized, traced
from qpc.training.ranges import following

X = torch.randn(4, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def test_frozen_ranges_stay_and_are_what_is_deployed() -> None:
    gm = traced(randomized(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())), X)
    # else sums of floats are compared
    rounded = QuantConfig(default=LayerConfig(results="integer"))
    gm = qpc.prepare_qat(gm, [X], rounded, learn=FollowRanges(decay=0.5))
    gm = qpc.set_training(gm)
    gm(3 * X)
    assert following(gm)
    parameters = list(gm.parameters())
    assert qpc.freeze_ranges(gm) is gm
    assert all(a is b for a, b in zip(gm.parameters(), parameters, strict=True))
    assert not following(gm)
    assert not any(name.endswith("range") for name, _ in gm.named_buffers())
    scale = gm.get_buffer("quantizers.input_1.scale").clone()
    gm(9 * X)
    assert torch.equal(gm.get_buffer("quantizers.input_1.scale"), scale)
    qpc.set_training(gm, mode=False)
    assert fake_quantized(gm) is None
    assert torch.equal(qpc.convert(gm)(X), gm(X))


def test_models_that_were_never_traced_are_refused() -> None:
    with pytest.raises(PassError, match="freeze_ranges needs a traced graph, got Linear"):
        qpc.freeze_ranges(nn.Linear(2, 2))  # type: ignore[arg-type]  # the mistake on purpose

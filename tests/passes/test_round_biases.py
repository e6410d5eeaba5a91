"""Biases in training are those of the integers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import qpc
from qpc.calls import qpc_ops
from qpc.passes import RoundBiases
from qpc.pipeline import Pipeline
from qpc.testing import check_pass, randomized, traced
from tests.quantizing import converted, fake_quantized, min_max
from tests.small_models import nodes_of

X = torch.randn(64, 3, 6, 6, generator=torch.Generator().manual_seed(0))


def test_a_rounded_bias_makes_the_graph_equal_its_integers() -> None:
    """At two bits a step of a layer's sums is a good part of a step of its result."""
    fake = fake_quantized(nn.Conv2d(3, 16, 3), X, config=min_max(2, 2))
    integers = converted(fake)
    assert not torch.equal(fake(X), integers(X))
    rounded = Pipeline((RoundBiases(),), RoundBiases.requires).run(fake)
    assert torch.equal(rounded(X), integers(X))
    assert torch.equal(converted(rounded)(X), integers(X))


def test_layers_without_a_bias_are_left_alone() -> None:
    fake = fake_quantized(nn.Conv2d(3, 4, 3, bias=False), X)
    assert not nodes_of(check_pass(RoundBiases(), fake, X, exact=True), qpc_ops.round_bias.default)


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_a_batch_norm_that_is_folded_later_adds_what_rounds_the_bias(
    bias: bool, affine: bool
) -> None:
    model = nn.Sequential(nn.Conv2d(3, 16, 3, bias=bias), nn.BatchNorm2d(16, affine=affine))
    gm = qpc.prepare_qat(traced(randomized(model), X), [X], min_max(2, 2), batch_norm="simulated")
    assert torch.equal(qpc.convert(gm)(X), gm(X))


def test_scales_that_learn_round_the_bias_anew() -> None:
    gm = qpc.prepare_qat(traced(randomized(nn.Conv2d(3, 8, 3)), X), [X], min_max(2, 2))
    with torch.no_grad():
        gm.get_parameter("quantizers.input_1.scale").mul_(1.3)
    assert torch.equal(qpc.convert(gm)(X), gm(X))

"""Bias correction takes out the mean error that rounded weights make, layer by layer."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

import qpc
from qpc.analysis.channel_means import ChannelMeans
from qpc.analysis.side_by_side import output_error
from qpc.base import PassContext
from qpc.errors import CalibrationError
from qpc.facts import CORE_FORM, FAKE_QUANTIZED
from qpc.layers import float_layer
from qpc.meta import attribute
from qpc.passes import Calibrate, CorrectBias, FakeQuantize, FoldBatchNorm, InsertObservers
from qpc.pipeline import Pipeline
from qpc.quant.config import ActivationConfig, LayerConfig, QuantConfig, WeightConfig
from qpc.quant.observers import MSE

COARSE = QuantConfig(default=LayerConfig(weight=WeightConfig(bits=3)))


class TwoLayers(nn.Module):
    def __init__(self, *, bias: bool = True) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 4, 3, bias=bias), nn.Linear(4, 3, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(torch.relu(self.first(x)).mean((2, 3)))
        return y


class TiedBias(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.b.bias = self.a.bias

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.b(self.a(x))
        return y


def batches() -> list[Tensor]:
    return [torch.rand(8, 2, 6, 6) + 0.5 for _ in range(4)]


def fake_quantized(model: nn.Module, data: list[Tensor]) -> GraphModule:
    passes = (FoldBatchNorm(), InsertObservers(COARSE), Calibrate(data), FakeQuantize())
    return Pipeline(passes).run(qpc.trace(model, data[0]))


def correct(
    gm: GraphModule, data: list[Tensor], samples: int = 32
) -> tuple[GraphModule, PassContext]:
    ctx = PassContext()
    pipeline = Pipeline((CorrectBias(data, samples),), frozenset({CORE_FORM, FAKE_QUANTIZED}))
    return pipeline.run(gm, ctx), ctx


@pytest.mark.parametrize("bias", [True, False])
def test_the_mean_output_error_shrinks(bias: bool) -> None:
    model, data = TwoLayers(bias=bias), batches()
    before = fake_quantized(model, data)
    after, ctx = correct(before, data)
    x = torch.cat(data)
    with torch.no_grad():
        expected = model(x).mean(0)
        error_before = (before(x).mean(0) - expected).abs().max()
        error_after = (after(x).mean(0) - expected).abs().max()
    assert error_after < 0.3 * error_before
    assert ctx.reports[0].summary == "2 biases corrected on 32 samples"


def test_a_layer_without_bias_gets_one_under_the_usual_name() -> None:
    data = batches()
    after, _ = correct(fake_quantized(TwoLayers(bias=False), data), data)
    assert attribute(after, "first.bias").shape == (4,)
    assert attribute(after, "second.bias").shape == (3,)


def test_samples_limits_how_many_are_used() -> None:
    data = batches()
    gm = fake_quantized(TwoLayers(), data)
    few, ctx = correct(gm, data, samples=3)
    many, _ = correct(gm, data, samples=32)
    assert ctx.reports[0].summary == "2 biases corrected on 3 samples"
    assert qpc.fingerprint(few) != qpc.fingerprint(many)


def test_declines_a_shared_bias() -> None:
    data = [torch.rand(8, 4)]
    _, ctx = correct(fake_quantized(TiedBias(), data), data)
    assert [remark.text for remark in ctx.declined] == ["'b.bias' is shared"] * 2


def test_refuses_no_batches_and_no_samples() -> None:
    gm = fake_quantized(TwoLayers(), batches())
    with pytest.raises(CalibrationError, match="there are no batches to correct biases on"):
        correct(gm, [])
    with pytest.raises(ValueError, match="samples must be at least 1, got 0"):
        CorrectBias([], samples=0)


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        y: Tensor = self.layer(x) * scale
        return y


def test_batches_that_cannot_be_joined_are_run_one_by_one() -> None:
    data = [(torch.rand(4, 4) + 0.5, torch.tensor(2.0)) for _ in range(3)]
    gm = qpc.trace(Pair(), data[0])
    fake = Pipeline((InsertObservers(COARSE), Calibrate(data), FakeQuantize())).run(gm)
    known = frozenset({CORE_FORM, FAKE_QUANTIZED})
    ctx = PassContext()
    corrected = Pipeline((CorrectBias(data),), known).run(fake, ctx)
    assert ctx.reports[0].summary == "1 biases corrected on 12 samples"
    together = [(torch.cat([x for x, _ in data]), data[0][1])]
    at_once = Pipeline((CorrectBias(together),), known).run(fake)
    torch.testing.assert_close(attribute(corrected, "layer.bias"), attribute(at_once, "layer.bias"))


def test_a_model_without_a_batch_axis_is_corrected_too() -> None:
    data = [torch.rand(4) + 0.5 for _ in range(3)]
    gm = qpc.trace(nn.Linear(4, 3), data[0])
    assert qpc.quantize(gm, data, COARSE)(data[0]).shape == (3,)


def test_the_full_correction_is_never_worse_than_the_fast_one() -> None:
    model, data = TwoLayers(), [8.0 * batch for batch in batches()]
    grid = ActivationConfig(bits=3, observer=MSE())
    coarse = LayerConfig(weight=WeightConfig(bits=3), activation=grid, results="integer")
    passes = (InsertObservers(QuantConfig(default=coarse)), Calibrate(data), FakeQuantize())
    gm = Pipeline(passes).run(qpc.trace(model, data[0]))
    known = frozenset({CORE_FORM, FAKE_QUANTIZED})
    ctx = PassContext()
    fast = Pipeline((CorrectBias(data),), known).run(gm)
    full = Pipeline((CorrectBias(data, full=True),), known).run(gm, ctx)
    given = [[8.0 * torch.cat(batches())]]  # others than it was measured on
    reference = qpc.trace(model, data[0])
    errors = [output_error(g, given, reference) for g in (full, fast, gm)]
    assert errors[0] <= min(errors[1:])
    assert "full" in ctx.reports[0].summary


def test_the_full_correction_gives_layers_without_bias_one() -> None:
    data = batches()
    gm = fake_quantized(TwoLayers(bias=False), data)
    known = frozenset({CORE_FORM, FAKE_QUANTIZED})
    after = Pipeline((CorrectBias(data, full=True),), known).run(gm)
    assert attribute(after, "first.bias").shape == (4,)


def test_means_from_calibration_stand_for_the_float_side() -> None:
    model, data = TwoLayers(), batches()
    means = ChannelMeans(samples=32)
    passes = (FoldBatchNorm(), InsertObservers(COARSE), Calibrate(data, means), FakeQuantize())
    gm = Pipeline(passes).run(qpc.trace(model, data[0]))
    rounded = frozenset({CORE_FORM, FAKE_QUANTIZED})
    both = Pipeline((CorrectBias(data),), rounded).run(gm)
    one = Pipeline((CorrectBias(data, means=means),), rounded).run(gm)
    for name in ("first.bias", "second.bias"):
        # sums are formed in another order, in float32 over the places of a sample
        assert torch.allclose(attribute(one, name), attribute(both, name), rtol=1e-5, atol=1e-6)
    last = [n.name for n in gm.graph.nodes if float_layer(n)][-1]
    means.add(last, torch.ones(1, 3), 1)
    moved = Pipeline((CorrectBias(data, means=means),), rounded).run(gm)
    assert not torch.allclose(attribute(moved, "second.bias"), attribute(both, "second.bias"))
    fewer = Pipeline((CorrectBias(data, samples=16, means=means),), rounded).run(gm)
    plain = Pipeline((CorrectBias(data, samples=16),), rounded).run(gm)
    assert torch.equal(attribute(fewer, "second.bias"), attribute(plain, "second.bias"))

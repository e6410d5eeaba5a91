from __future__ import annotations

from collections.abc import Iterator
from operator import length_hint
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

import qpc
from qpc.base import PassContext
from qpc.calls import aten, qpc_ops
from qpc.errors import CalibrationError, ConfigError, PassError
from qpc.facts import CALIBRATED, CORE_FORM, FAKE_QUANTIZED, INTEGER, OBSERVED
from qpc.hashing import fingerprint
from qpc.passes import Calibrate, FakeQuantize, FollowRanges, LearnGrids
from qpc.pipeline import Pipeline
from qpc.pruning.allocation import Uniform
from qpc.pruning.magnitude import L1
from qpc.quant.config import Override, QuantConfig
from qpc.quant.pairs import are_safe
from qpc.recipes import post_training_quantization, prepare, quantize, to_integer
from qpc.testing import assert_same_output, randomized, traced
from tests.quantizing import min_max, steps_apart
from tests.rounding import integer_weights
from tests.small_models import nodes_of

X = torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(0))
CONFIG = min_max()


def model() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(64, 5),
    )


def test_prepare_folds_cleans_and_observes_without_changing_the_output() -> None:
    gm = traced(randomized(model()), X)
    result = prepare(CONFIG).run(gm)
    assert OBSERVED.check(result) is None
    assert not nodes_of(result, aten.batch_norm.default)
    assert not nodes_of(result, aten.dropout.default)
    assert_same_output(gm, result, X)


def test_post_training_quantization_ends_with_fixed_grids() -> None:
    result = post_training_quantization([X], CONFIG).run(traced(randomized(model()), X))
    assert FAKE_QUANTIZED.check(result) is None
    assert nodes_of(result, qpc_ops.fake_quantize.default)


def test_quantize_is_all_of_it() -> None:
    gm = traced(randomized(model()), X)
    before = fingerprint(gm)
    ctx = PassContext()
    fake = post_training_quantization([X], CONFIG).run(gm)
    result = quantize(gm, [X], CONFIG, ctx)
    assert fingerprint(gm) == before
    assert INTEGER.check(result) is None
    assert not nodes_of(result, qpc_ops.clamp.default)
    assert fingerprint(result) == fingerprint(to_integer().run(fake))
    assert steps_apart(fake, result, X) <= 4.0  # the first layer may be off by one
    last = [report.name for report in ctx.reports][-3:]
    assert last == ["convert-to-integer", "merge-clamps", "merge-tables"]


def test_the_default_configuration_works() -> None:
    gm = traced(randomized(nn.Linear(4, 3)), torch.randn(16, 4))
    x = torch.randn(64, 4)
    error = (quantize(gm, [x])(x) - gm(x)).abs().max()
    assert error < 0.05 * gm(x).abs().max()


def test_a_generator_of_batches_is_read_once() -> None:
    def batches() -> Iterator[Tensor]:
        yield X[:4]
        yield X[4:]

    gm = traced(randomized(model()), X)
    result = quantize(gm, batches(), CONFIG)
    assert torch.equal(result(X), quantize(gm, [X[:4], X[4:]], CONFIG)(X))


def test_the_configuration_is_used() -> None:
    config = min_max(overrides=(Override(op="linear", use="float"),))
    result = quantize(traced(randomized(model()), X), [X], config)
    assert nodes_of(result, aten.linear.default)
    assert nodes_of(result, qpc_ops.conv2d.default)


def test_no_data_is_an_error() -> None:
    with pytest.raises(CalibrationError, match="there are no calibration batches"):
        quantize(traced(model(), X), [], CONFIG)


def test_a_quantized_graph_cannot_be_quantized_to_integers_again() -> None:
    with pytest.raises(PassError, match="the graph is not fake-quantized: observer "):
        to_integer().run(prepare(CONFIG).run(traced(model(), X)))


def test_the_parts_fit_together_in_one_pipeline() -> None:
    whole = post_training_quantization([X], CONFIG) + to_integer()
    assert isinstance(whole, Pipeline)
    assert CALIBRATED not in whole.assume
    gm = traced(randomized(model()), X)
    assert torch.equal(whole.run(gm)(X), quantize(gm, [X], CONFIG)(X))


def test_batches_that_cannot_be_read_are_an_error_before_anything_runs() -> None:
    with pytest.raises(CalibrationError, match="needs an iterable of batches, got NoneType"):
        post_training_quantization(None, CONFIG)  # type: ignore[arg-type]  # wrong on purpose


def test_the_number_of_batches_is_known_to_the_progress_bar() -> None:
    passes = post_training_quantization([X, X], CONFIG).passes
    (calibrate,) = [each for each in passes if isinstance(each, Calibrate)]
    assert length_hint(calibrate.batches) == 2


class DenseBlock(nn.Module):
    """Layers that each read everything before them, through a batch norm of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(4 * (i + 1)) for i in range(3))
        self.layers = nn.ModuleList(nn.Conv2d(4 * (i + 1), 4, 3, padding=1) for i in range(3))

    def forward(self, x: Tensor) -> Tensor:
        values = [self.first(x)]
        for norm, layer in zip(self.norms, self.layers, strict=True):
            values.append(layer(norm(torch.cat(values, 1)).relu()))
        return torch.cat(values, 1)


def test_a_dense_block_has_neither_float_operators_nor_tables() -> None:
    torch.manual_seed(0)
    block = DenseBlock()
    for norm in (m for m in block.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.constant_(norm.weight, 3.0)  # so that layers make values of similar ranges
    ctx = PassContext()
    result = quantize(traced(block, X), [X], CONFIG, ctx)
    calls = {node.target for node in result.graph.nodes if node.op == "call_function"}
    assert calls == {
        qpc_ops.quantize.default,
        qpc_ops.conv2d.default,
        aten.cat.default,
        qpc_ops.dequantize.default,
    }
    assert any("4 of 4 convolution and linear layers" in r.summary for r in ctx.reports)


def _trained(gm: GraphModule, goal: Tensor, steps: int = 30) -> list[float]:
    """Train on the images of this module; the losses."""
    optimizer = torch.optim.Adam(gm.parameters(), 0.01)
    qpc.set_training(gm)
    losses = []
    for _ in range(steps):
        loss = (gm(QAT_X) - goal).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    qpc.set_training(gm, mode=False)
    return losses


QAT_X = torch.randn(16, 3, 6, 6, generator=torch.Generator().manual_seed(0))


class _Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
        self.mix, self.linear = nn.Conv2d(8, 8, 1), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.conv(x)))
        x = torch.relu(self.mix(x) + x)
        y: Tensor = self.linear(x.mean((2, 3)))
        return y


def _few_bits() -> QuantConfig:
    return min_max(bits=4, weight_bits=3)


@pytest.mark.every(4)
@pytest.mark.parametrize(
    "learn", [LearnGrids(), LearnGrids(zero_points=True), LearnGrids(activations=False), None]
)
def test_training_with_rounded_values_lowers_the_loss_and_is_what_is_deployed(
    learn: LearnGrids | None,
) -> None:
    gm = qpc.prepare_qat(traced(randomized(_Small()), QAT_X), [QAT_X], _few_bits(), learn=learn)
    goal = torch.randn(16, 2, generator=torch.Generator().manual_seed(1))
    losses = _trained(gm, goal)
    assert losses[-1] < 0.8 * losses[0]
    integers = qpc.convert(gm)
    (step,) = {n.args[1] for n in integers.graph.nodes if "dequantize" in str(n.target)}
    off = (gm(QAT_X) - integers(QAT_X)).abs() / step
    assert off.max() < 1.01
    assert (off < 0.01).float().mean() > 0.9
    assert (integers(QAT_X) - goal).square().mean() < 0.9 * losses[0]


@pytest.mark.parametrize("learn", [LearnGrids(), FollowRanges()])
def test_pairs_stay_safe_whatever_training_and_pruning_do_to_weights(
    learn: LearnGrids | FollowRanges,
) -> None:
    config = QuantConfig.for_target("x86-64-v3")
    gm = qpc.prepare_qat(traced(randomized(_Small()), QAT_X), [QAT_X], config, learn=learn)
    with torch.no_grad():
        gm.get_parameter("mix.weight").mul_(3.0)  # farther than the grid that it had
    _trained(gm, torch.randn(16, 2, generator=torch.Generator().manual_seed(1)), steps=3)
    for graph in (gm, qpc.prune(gm, L1(), Uniform(0.4))):
        integers = qpc.convert(graph)
        assert all(map(are_safe, integer_weights(integers)))
        wanted = graph(QAT_X)
        assert (integers(QAT_X) - wanted).abs().max() < 0.02 * wanted.abs().max()


def test_without_training_preparing_and_converting_is_quantizing_without_bias_correction() -> None:
    gm = traced(randomized(_Small()), QAT_X)
    fake = Pipeline((Calibrate([QAT_X]), FakeQuantize()), frozenset({CORE_FORM, OBSERVED}))
    expected = (prepare(_few_bits()) + fake + to_integer()).run(gm)
    found = qpc.convert(qpc.prepare_qat(gm, [QAT_X], _few_bits()))
    assert torch.equal(found(QAT_X), expected(QAT_X))


def test_a_graph_whose_grids_learn_is_saved_and_pruned_like_any_other(tmp_path: Path) -> None:
    gm = qpc.prepare_qat(traced(randomized(_Small()), QAT_X), [QAT_X], _few_bits())
    goal = torch.randn(16, 2, generator=torch.Generator().manual_seed(1))
    _trained(gm, goal, steps=3)
    qpc.save_graph(gm, tmp_path / "graph")
    again = qpc.load_graph(tmp_path / "graph")
    assert torch.equal(again(QAT_X), gm(QAT_X))
    assert dict(again.named_parameters()).keys() == dict(gm.named_parameters()).keys()
    pruned = qpc.prune(again, L1(), Uniform(0.5))
    assert pruned.get_parameter("quantizers.conv2d_weight.scale").shape == (4,)
    losses = _trained(pruned, goal)
    assert losses[-1] < losses[0]
    step = pruned.get_parameter("quantizers.linear.scale").item()
    assert (qpc.convert(pruned)(QAT_X) - pruned(QAT_X)).abs().max() < 1.01 * step


def test_what_is_to_learn_is_a_pass() -> None:
    gm = traced(randomized(_Small()), QAT_X)
    with pytest.raises(
        ConfigError,
        match=r"learn must be qpc\.passes\.LearnGrids\(\.\.\.\), FollowRanges\(\.\.\.\), a",
    ):
        qpc.prepare_qat(gm, [QAT_X], learn="all")  # type: ignore[arg-type]  # the mistake on purpose


def test_batch_norms_are_folded_or_simulated_and_nothing_else() -> None:
    gm = traced(randomized(_Small()), QAT_X)
    with pytest.raises(ConfigError, match="batch_norm must be 'folded' or 'simulated', got 'kept'"):
        qpc.prepare_qat(gm, [QAT_X], batch_norm="kept")  # type: ignore[arg-type]  # on purpose


def test_a_simulated_batch_norm_computes_what_the_folded_one_does() -> None:
    gm = traced(randomized(_Small()), QAT_X)
    folded = qpc.prepare_qat(gm, [QAT_X], _few_bits())
    simulated = qpc.prepare_qat(gm, [QAT_X], _few_bits(), batch_norm="simulated")
    assert "norm.running_var" in simulated.state_dict()
    torch.testing.assert_close(simulated(QAT_X), folded(QAT_X), rtol=1e-5, atol=1e-5)
    assert torch.equal(qpc.convert(simulated)(QAT_X), simulated(QAT_X))


def test_a_graph_in_training_mode_is_converted_as_it_is_in_inference() -> None:
    gm = qpc.prepare_qat(traced(randomized(_Small()), QAT_X), [QAT_X], batch_norm="simulated")
    expected = qpc.fingerprint(qpc.convert(gm))
    assert qpc.fingerprint(qpc.convert(qpc.set_training(gm))) == expected
    assert gm.training


def test_a_graph_without_a_grid_has_nothing_to_convert() -> None:
    with pytest.raises(PassError, match="there is nothing to convert") as caught:
        qpc.convert(traced(randomized(_Small()), QAT_X))
    assert caught.value.fix == (
        "gm = qpc.prepare_qat(gm, batches) before training, or qpc.quantize(gm, batches)"
    )

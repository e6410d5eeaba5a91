from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.utils.data import DataLoader, TensorDataset

from qpc.analysis.channel_means import ChannelMeans
from qpc.base import PassContext
from qpc.errors import CalibrationError
from qpc.facts import CALIBRATED, OBSERVED
from qpc.hashing import fingerprint
from qpc.layers import float_layer
from qpc.meta import attribute
from qpc.passes import Calibrate
from qpc.pipeline import Pipeline
from qpc.quant.config import ActivationConfig, LayerConfig, QuantConfig
from qpc.quant.observers import MSE, ActivationObserver, Entropy, MinMax, MovingAverage, Percentile
from qpc.testing import check_pass, traced
from tests.quantizing import observed

SEED = torch.Generator().manual_seed(0)
BATCHES = [torch.randn(4, 3, generator=SEED) for _ in range(4)]


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3)

    def forward(self, x: Tensor, scale: Tensor) -> Tensor:
        result: Tensor = self.fc(x) * scale
        return result


def one_input(observer: ActivationObserver | None = None) -> GraphModule:
    grid = ActivationConfig(observer=observer or MinMax())
    layer = LayerConfig(activation=grid, results="integer")
    return observed(nn.Linear(3, 3), BATCHES[0], config=QuantConfig(default=layer))


def two_inputs() -> GraphModule:
    return observed(TwoInputs(), BATCHES[0], torch.ones(4, 1))


def calibrated(gm: GraphModule, batches: Iterable[Any]) -> GraphModule:
    return Pipeline((Calibrate(batches),), frozenset({OBSERVED})).run(gm)


def statistics(gm: GraphModule) -> dict[str, Tensor]:
    return {name: b for name, b in gm.named_buffers() if name.startswith("observers.")}


def message(gm: GraphModule, batches: Any) -> str:
    """The error of a calibration; checks on the way that it changes nothing."""
    before = fingerprint(gm)
    with pytest.raises(CalibrationError) as caught:
        Calibrate(batches).apply(gm, PassContext())
    assert fingerprint(gm) == before
    return caught.value.full_text


def test_observers_see_the_inputs_and_the_values() -> None:
    gm = one_input()
    result = check_pass(Calibrate(BATCHES), gm, BATCHES[0], exact=True, idempotent=False)
    seen = torch.cat(BATCHES)
    made = gm(seen).detach()
    assert statistics(result)["observers.input_1.extent"].tolist() == [seen.min(), seen.max()]
    assert statistics(result)["observers.linear.extent"].tolist() == [made.min(), made.max()]


def test_the_graph_stays_as_it_is() -> None:
    gm = one_input()
    text = """
        graph:
          %input_1: f32[N, 3] = input  # observer observers.input_1
          %observe_default: f32[N, 3] = qpc.observe(%input_1, 'observers.input_1')  # observer observers.input_1
          %linear: f32[N, 3] = aten.linear(%observe_default, @weight, @bias)  # observer observers.linear
          %observe_default_1: f32[N, 3] = qpc.observe(%linear, 'observers.linear')  # observer observers.linear
          return %observe_default_1
    """  # noqa: E501
    check_pass(
        Calibrate(BATCHES), gm, BATCHES[0], before=text, after=text, exact=True, idempotent=False
    )


@pytest.mark.parametrize("observer", [MinMax(), MovingAverage(), Percentile(), MSE(), Entropy()])
def test_two_runs_accumulate_to_one_run_over_both(observer: ActivationObserver) -> None:
    gm = one_input(observer)
    apart = calibrated(calibrated(gm, BATCHES[:1]), BATCHES[1:])
    together = calibrated(gm, BATCHES)
    assert statistics(apart).keys() == statistics(together).keys()
    assert all(torch.equal(v, statistics(together)[k]) for k, v in statistics(apart).items())
    assert not torch.equal(
        next(iter(statistics(together).values())), next(iter(statistics(gm).values()))
    )


def test_calibration_is_established_by_data_alone() -> None:
    gm = one_input()
    assert CALIBRATED.check(gm) == "observer observe_default has seen no data"
    assert CALIBRATED.check(calibrated(gm, BATCHES)) is None


def test_reports_how_much_was_seen() -> None:
    ctx = PassContext()
    Pipeline((Calibrate(BATCHES),), frozenset({OBSERVED})).run(one_input(), ctx)
    assert ctx.reports[0].summary == "4 batches through 2 observers"


def batches_of(kind: str) -> Iterable[Any]:
    labels = torch.zeros(4, dtype=torch.int64)
    if kind == "generator":
        return (batch for batch in BATCHES)
    if kind == "loader":
        return DataLoader(TensorDataset(torch.cat(BATCHES)), batch_size=4)
    forms: dict[str, Iterable[Any]] = {
        "tensors": BATCHES,
        "images and labels": [(batch, labels) for batch in BATCHES],
        "lists": [[batch] for batch in BATCHES],
        "by name": [{"input_1": batch, "label": labels} for batch in BATCHES],
        "another batch size": [torch.cat(BATCHES)],
    }
    return forms[kind]


@pytest.mark.parametrize(
    "kind",
    [
        "tensors",
        "generator",
        "loader",
        "images and labels",
        "lists",
        "by name",
        "another batch size",
    ],
)
def test_takes_batches_in_any_form(kind: str) -> None:
    expected = statistics(calibrated(one_input(), BATCHES))
    got = statistics(calibrated(one_input(), batches_of(kind)))
    assert torch.equal(got["observers.input_1.extent"], expected["observers.input_1.extent"])


def test_several_inputs_come_in_order_or_by_name() -> None:
    gm, x, scale = two_inputs(), BATCHES[0], torch.rand(4, 1)
    in_order, by_name = (
        statistics(calibrated(gm, [b])) for b in ((x, scale), {"scale": scale, "x": x})
    )
    assert torch.equal(in_order["observers.mul.extent"], by_name["observers.mul.extent"])


def test_batches_in_parts_leave_the_same_statistics(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = statistics(calibrated(one_input(MSE()), BATCHES))
    averaged = statistics(calibrated(one_input(MovingAverage()), BATCHES))
    monkeypatch.setattr("qpc.passes.calibrate.samples_at_a_time", lambda gm: 3)
    parts = statistics(calibrated(one_input(MSE()), BATCHES))
    first = next(name for name in whole if name.endswith("counts"))  # of the input
    assert torch.equal(parts[first], whole[first])
    for name, value in whole.items():  # a matrix product of one row may add up in another order
        if name.endswith("extent"):
            assert torch.allclose(parts[name], value, rtol=1e-6)
    again = statistics(calibrated(one_input(MovingAverage()), BATCHES))  # minds its batches
    assert all(torch.equal(again[name], value) for name, value in averaged.items())


def test_means_of_layers_are_taken_down_on_the_first_samples() -> None:
    gm, means = one_input(), ChannelMeans(samples=6)
    Calibrate(BATCHES, means).apply(gm, PassContext())
    (layer,) = [n for n in gm.graph.nodes if float_layer(n)]
    weight, bias = (attribute(gm, str(n.target)).double() for n in layer.all_input_nodes[1:])
    expected = (torch.cat(BATCHES)[:6].double() @ weight.T + bias).mean(0)
    assert torch.allclose(means.of(layer.name), expected, atol=1e-6)
    assert means.left == 0


def test_options_are_not_printed() -> None:
    assert repr(Calibrate(BATCHES)) == "Calibrate()"


# --- errors ---------------------------------------------------------------------------------------

FIX = "\n  fix: preprocess the data exactly like the model's inputs"


def test_refuses_no_batches() -> None:
    nothing: list[Tensor] = []
    for batches in (nothing, iter(nothing)):
        assert message(one_input(), batches) == (
            "there are no calibration batches\n"
            "  fix: pass an iterable of batches; a generator that was used up is empty"
        )


def test_refuses_what_is_not_iterable() -> None:
    assert message(one_input(), 3) == (
        "calibration needs an iterable of batches, got int\n"
        "  fix: pass a list of tensors or a DataLoader"
    )


def test_refuses_another_shape_and_names_the_batch() -> None:
    assert message(one_input(), [BATCHES[0], torch.zeros(4, 5)]) == (
        "batch 1 has shape (4, 5) for 'input_1'; "
        f"the graph takes (N, 3), where N is any batch size{FIX}"
    )
    assert message(one_input(), [BATCHES[0][0]]).startswith("batch 0 has shape (3,)")


class Reshaped(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(4, 1, 3)


def test_names_a_fixed_shape_as_it_is() -> None:
    gm = observed(nn.Sequential(Reshaped(), nn.Linear(3, 3)), BATCHES[0])
    assert "has shape (5, 3) for 'input_1'; the graph takes (4, 3)\n" in message(
        gm, [torch.zeros(5, 3)]
    )


def test_refuses_another_dtype() -> None:
    assert message(one_input(), [torch.zeros(4, 3, dtype=torch.float64)]) == (
        "batch 0 has torch.float64 for 'input_1'; the graph takes torch.float32"
        "\n  fix: convert it: x.to(torch.float32)"
    )


def test_refuses_another_number_of_tensors() -> None:
    names = "2 inputs ['x', 'scale']"
    for batch, found in (((BATCHES[0],), 1), (BATCHES[0], 1), ((BATCHES[0],) * 3, 3)):
        assert message(two_inputs(), [batch]) == (
            f"batch 0 has {found} tensors; the graph takes {names}{FIX}"
        )
    assert message(two_inputs(), [{"x": BATCHES[0]}]) == (
        "batch 0 has no 'scale'; the graph takes inputs ['x', 'scale']"
        "\n  fix: name the tensors so: {'x': ..., 'scale': ...}"
    )


def test_refuses_what_is_no_tensor() -> None:
    assert message(one_input(), [[3]]) == (
        f"batch 0 holds int for 'input_1'; the graph takes a tensor{FIX}"
    )
    assert message(one_input(), [3]) == (f"batch 0 is int; the graph takes tensors{FIX}")


@pytest.mark.parametrize("observer", [MinMax(), MSE()])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_refuses_data_that_is_no_number_and_names_the_node(
    observer: ActivationObserver, bad: float
) -> None:
    batch = BATCHES[1].clone()
    batch[2, 1] = bad
    text = message(one_input(observer), [BATCHES[0], batch])
    assert text.startswith("the input 'input_1': the calibration data holds NaN or infinite values")
    assert "at node: %observe_default" in text
    assert text.endswith("in calibration batch 1")


def test_a_value_that_becomes_no_number_is_named_by_its_module() -> None:
    first = nn.Linear(3, 3)
    nn.init.constant_(first.weight, 10.0)
    gm = observed(nn.Sequential(first, nn.Linear(3, 3)), BATCHES[0])
    text = message(gm, [torch.full((2, 3), 3e38)])
    assert text.startswith("the values of 0 (linear): the calibration data holds NaN or infinite")


def test_autocast_and_inference_mode_of_the_caller_do_not_matter() -> None:
    calibrated, gm = Pipeline((Calibrate(BATCHES),), Calibrate.requires), one_input()
    expected = fingerprint(calibrated.run(gm))
    with torch.autocast("cpu", torch.bfloat16):
        assert fingerprint(calibrated.run(gm)) == expected
    with torch.inference_mode():
        assert fingerprint(calibrated.run(gm)) == expected


def test_a_failing_iterable_leaves_the_observers_as_they_were() -> None:
    def failing() -> Iterator[Tensor]:
        yield BATCHES[0]
        raise OSError("disk on fire")

    gm = one_input()
    before = fingerprint(gm)
    with pytest.raises(OSError, match="disk on fire"):
        Calibrate(failing()).apply(gm, PassContext())
    assert fingerprint(gm) == before


def test_a_graph_without_observers_needs_data_but_gains_nothing() -> None:
    gm = traced(nn.ReLU(), BATCHES[0])
    assert not Calibrate(BATCHES).apply(gm, PassContext())


def test_refuses_batches_without_samples() -> None:
    text = message(one_input(), [BATCHES[0][:0]])
    assert text.startswith("the calibration batches hold no samples\n  at node: %observe_default")
    assert text.endswith("fix: pass batches of at least one sample")


def test_refuses_batches_on_another_device() -> None:
    assert message(one_input(), [BATCHES[0].to("meta")]) == (
        f"batch 0 is on meta for 'input_1'; the graph takes tensors on cpu{FIX}"
    )

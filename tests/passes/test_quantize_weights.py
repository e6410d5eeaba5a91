"""Integer weights for linear layers whose values stay float, without calibration."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

import qpc
from qpc.calls import qpc_ops
from qpc.errors import ConfigError, PassError
from qpc.meta import attribute
from qpc.passes import QuantizeWeights
from qpc.quant.config import LayerConfig, Mode, Override, QuantConfig, WeightConfig
from qpc.testing import check_pass

X = torch.randn(5, 70, generator=torch.Generator().manual_seed(0))
SMALL = X / 50  # of which rounded weights make small errors
INT4 = LayerConfig(mode="weight-only", weight=WeightConfig(bits=4, group=32))
DYNAMIC = LayerConfig(mode="dynamic")


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.last = nn.Linear(70, 40), nn.Linear(40, 40), nn.Linear(40, 3)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.last(self.second(self.first(x).relu()).relu())
        return found


def graph(model: nn.Module | None = None, x: Tensor = X) -> GraphModule:
    return qpc.trace(model or Net(), x)


def test_layers_get_weights_of_four_bits_two_to_the_byte() -> None:
    gm = check_pass(
        QuantizeWeights(QuantConfig(default=INT4)),
        graph(nn.Sequential(nn.Linear(70, 3), nn.ReLU())),
        SMALL,
        after="""
        graph:
          %input_1: f32[N, 70] = input
          %weight_only_linear_default: f32[N, 3] = qpc.weight_only_linear(%input_1, @0.weight, \
@0.scale, @0.bias, 32)  # 0
          %relu: f32[N, 3] = aten.relu(%weight_only_linear_default)  # 1
          return %relu
        """,
        atol=0.01,
    )
    assert (gm.get_buffer("0.weight").dtype, gm.get_buffer("0.weight").shape) == (
        torch.uint8,
        (3, 35),
    )
    assert gm.get_buffer("0.scale").shape == (3, 3)
    assert [name for name, _ in gm.named_parameters()] == ["0.bias"]


def test_dynamic_layers_have_int8_weights_and_a_scale_for_each_output() -> None:
    gm = check_pass(QuantizeWeights(QuantConfig(default=DYNAMIC)), graph(), SMALL, atol=0.01)
    assert gm.get_buffer("first.weight").dtype is torch.int8
    assert gm.get_buffer("first.scale").shape == (40,)
    targets = [n.target for n in gm.graph.nodes if n.op == "call_function"]
    assert targets.count(qpc_ops.dynamic_linear.default) == 3


def test_weights_are_at_most_half_a_step_off() -> None:
    layer = nn.Linear(70, 9)
    gm = QuantizeWeights(QuantConfig(default=INT4))
    found = qpc.Pipeline((gm,)).run(graph(layer))
    identity = torch.eye(70)
    with torch.no_grad():
        weight = (found(identity) - layer.bias).T
    scale = attribute(found, "linear.scale").repeat_interleave(32, 1)[:, :70]
    assert bool(((weight - layer.weight).abs() <= 0.501 * scale).all())


def test_layers_that_share_a_weight_share_its_integers() -> None:
    model = nn.Sequential(nn.Linear(70, 70), nn.Linear(70, 70))
    model[1].weight = model[0].weight
    gm = check_pass(QuantizeWeights(QuantConfig(default=DYNAMIC)), graph(model), SMALL, atol=0.01)
    assert len([name for name, _ in gm.named_buffers()]) == 2


def test_what_cannot_have_them_stays_float_and_says_why() -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.weight = nn.Conv2d(2, 2, 1), nn.Parameter(torch.ones(3, 4))

        def forward(self, x: Tensor) -> Tensor:
            return torch.nn.functional.linear(self.conv(x), self.weight * 2)

    x = torch.randn(2, 2, 3, 4)
    check_pass(
        QuantizeWeights(QuantConfig(default=DYNAMIC)),
        graph(Mixed(), x),
        x,
        declines=[
            "conv (conv2d): only linear layers have integer weights without integer values",
            "linear: its weight mul is computed, not a parameter; run qpc.passes.FoldWeights()"
            " first to make it one",
        ],
        exact=True,
    )


def test_overrides_choose_among_all_modes_in_one_model() -> None:
    config = QuantConfig(
        overrides=(Override(module="first", use=DYNAMIC), Override(module="second", use=INT4))
    )
    context = qpc.PassContext()
    gm = qpc.quantize(graph(), [X], config, context)
    calls = [
        str(n.target).removesuffix(".default") for n in gm.graph.nodes if n.op == "call_function"
    ]
    assert calls == [
        "qpc.dynamic_linear",
        "aten.relu",
        "qpc.weight_only_linear",
        "aten.relu",
        "qpc.quantize",
        "qpc.linear_float",
    ]
    summaries = {report.name: report.summary for report in context.reports}
    assert summaries["convert-to-integer"] == "3 of 3 convolution and linear layers quantized"
    with torch.no_grad():
        assert torch.allclose(gm(X), graph()(X), atol=0.1)


def test_names_of_operators_and_positions_select_these_layers_too() -> None:
    config = QuantConfig(
        overrides=(Override(op="linear", use=DYNAMIC), Override(position="output", use="float"))
    )
    gm = qpc.quantize(graph(), config=config)
    targets = [str(n.target) for n in gm.graph.nodes if n.op == "call_function"]
    assert targets.count("qpc.dynamic_linear.default") == 2
    assert targets[-1] == "aten.linear.default"


@pytest.mark.parametrize("mode", ["dynamic", "weight-only"])
def test_no_batch_is_needed_or_read(mode: Mode) -> None:
    class Unread:
        def __iter__(self) -> Iterator[Tensor]:
            pytest.fail("a batch was read")

    config = QuantConfig(default=LayerConfig(mode=mode))
    given, none = qpc.quantize(graph(), Unread(), config), qpc.quantize(graph(), config=config)
    assert qpc.fingerprint(given) == qpc.fingerprint(none)


def test_a_misspelled_override_is_still_an_error() -> None:
    config = QuantConfig(default=DYNAMIC, overrides=(Override(module="frist", use=INT4),))
    with pytest.raises(PassError, match=r"override Override\(module='frist'.* matches nothing"):
        qpc.quantize(graph(), config=config)


def test_weights_that_are_no_numbers_name_their_layer() -> None:
    gm = graph()
    with torch.no_grad():
        attribute(gm, "second.weight")[0, 0] = float("inf")
    with pytest.raises(PassError, match="the weight holds NaN or infinite values") as caught:
        qpc.quantize(gm, config=QuantConfig(default=DYNAMIC))
    assert caught.value.node is not None
    assert "Override(module='second'" in str(caught.value.fix)


def test_the_configuration_must_be_one() -> None:
    with pytest.raises(ConfigError, match="config must be a QuantConfig, got int"):
        QuantizeWeights(4)  # type: ignore[arg-type]  # what is tested


def test_layers_with_integer_weights_are_not_trained() -> None:
    with pytest.raises(
        ConfigError, match="layers of the mode 'dynamic' cannot be trained"
    ) as caught:
        qpc.prepare_qat(graph(), [X], QuantConfig(default=DYNAMIC))
    assert "QuantizeWeights" in str(caught.value.fix)


def test_fewer_bits_of_such_weights_change_nothing_in_what_integer_layers_get() -> None:
    config = QuantConfig(overrides=(Override(module="second", use=INT4),))
    context = qpc.PassContext()
    qpc.quantize(graph(), [X], config, context)
    assert "correct-bias" in [report.name for report in context.reports]


def test_the_best_effort_knows_one_mode_only() -> None:
    with pytest.raises(ConfigError, match="has no way to try the mode 'dynamic'"):
        qpc.quantize(graph(), [X], QuantConfig(default=DYNAMIC), effort="best")


def test_what_was_trained_may_get_them_afterwards() -> None:
    kept = QuantConfig(overrides=(Override(module="last", use="float"),))
    later = QuantConfig(overrides=(Override(module="last", use=INT4),))
    trained = qpc.convert(qpc.prepare_qat(graph(), [X], kept))
    gm = qpc.Pipeline((QuantizeWeights(later),)).run(trained)
    assert gm.get_buffer("last.weight").dtype is torch.uint8

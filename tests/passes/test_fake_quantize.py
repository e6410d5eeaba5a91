from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from qpc.base import PassContext
from qpc.calls import aten, qpc_ops
from qpc.errors import OverflowProofError, PassError
from qpc.facts import CALIBRATED, FAKE_QUANTIZED, OBSERVED
from qpc.meta import info
from qpc.passes import Calibrate, FakeQuantize
from qpc.pipeline import Pipeline
from qpc.quant.config import ActivationConfig, LayerConfig, QuantConfig, WeightConfig
from qpc.quant.fixedpoint import weight_scales
from qpc.quant.grid import QParams
from qpc.quant.observers import MSE, ActivationObserver, MinMax, Percentile
from qpc.testing import check_pass, randomized
from tests.quantizing import Parts, fake_quantized, min_max, observed
from tests.small_models import nodes_of, only

IMAGE = torch.randn(4, 3, 4, 4, generator=torch.Generator().manual_seed(0))
FACTS = frozenset({OBSERVED, CALIBRATED})


def calibrated(
    model: nn.Module, x: Tensor = IMAGE, config: QuantConfig | None = None
) -> GraphModule:
    return Pipeline((Calibrate([x]),), frozenset({OBSERVED})).run(observed(model, x, config=config))


def grids(gm: GraphModule) -> dict[str, QParams]:
    return {n.name: grid for n in gm.graph.nodes if (grid := info(n).qparams) is not None}


def test_replaces_observers_and_rounds_weights() -> None:
    conv = nn.Conv2d(3, 2, 1, bias=False)
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([[127, 1, 0], [-127, 2, 0]])[:, :, None, None])
    x = torch.zeros(1, 3, 1, 2)
    x[0, 0, 0, 0] = 255.0  # every value of the net is then a point of its grid
    check_pass(
        FakeQuantize(),
        calibrated(nn.Sequential(conv, nn.ReLU()), x),
        x,
        before="""
            graph:
              %input_1: f32[N, 3, 1, 2] = input  # observer observers.input_1
              %observe_default: f32[N, 3, 1, 2] = qpc.observe(%input_1, 'observers.input_1')  # observer observers.input_1
              %conv2d: f32[N, 2, 1, 2] = aten.conv2d(%observe_default, @0.weight)  # observer observers.relu; 0
              %relu: f32[N, 2, 1, 2] = aten.relu(%conv2d)  # observer observers.relu; 1
              %observe_default_1: f32[N, 2, 1, 2] = qpc.observe(%relu, 'observers.relu')  # observer observers.relu; 1
              return %observe_default_1
        """,  # noqa: E501
        after="""
            graph:
              %input_1: f32[N, 3, 1, 2] = input  # scale 1, zero 0
              %fake_quantize_default: f32[N, 3, 1, 2] = qpc.fake_quantize(%input_1, @quantizers.input_1.scale, @quantizers.input_1.zero_point, 0, 255)  # scale 1, zero 0
              %fake_quantize_default_2: f32[2, 3, 1, 1] = qpc.fake_quantize(@0.weight, @quantizers.conv2d_weight.scale, @quantizers.conv2d_weight.zero_point, -127, 127, 0)  # 0
              %conv2d: f32[N, 2, 1, 2] = aten.conv2d(%fake_quantize_default, %fake_quantize_default_2, None, [1, 1], [0, 0], [1, 1], 1)  # scale 127, zero 0; 0
              %relu: f32[N, 2, 1, 2] = aten.relu(%conv2d)  # scale 127, zero 0; 1
              %fake_quantize_default_1: f32[N, 2, 1, 2] = qpc.fake_quantize(%relu, @quantizers.relu.scale, @quantizers.relu.zero_point, 0, 255)  # scale 127, zero 0; 1
              return %fake_quantize_default_1
        """,  # noqa: E501
        exact=True,
    )


def test_observers_and_their_statistics_go() -> None:
    gm = fake_quantized(nn.Conv2d(3, 4, 1), IMAGE)
    assert not [name for name in gm.state_dict() if "observers" in name]
    assert FAKE_QUANTIZED.check(gm) is None


class TwoConcats(nn.Module):
    """Values of which each enters two concats."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 3, 1), nn.Conv2d(6, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        one = self.a(x)
        two = self.b(torch.cat([x, one], 1))
        return torch.cat([x, one, two], 1)


def test_values_that_meet_in_concats_have_one_grid() -> None:
    ctx = PassContext()
    gm = Pipeline((FakeQuantize(narrowest=0.01),), FACTS).run(calibrated(TwoConcats()), ctx)
    found = grids(gm)
    assert len({found[name] for name in ("x", "conv2d", "conv2d_1", "cat", "cat_1")}) == 1
    assert "of them joined with others by concats" in ctx.reports[-1].summary


def test_concats_join_no_grids_where_that_is_not_wanted() -> None:
    ctx = PassContext()
    gm = Pipeline((FakeQuantize(narrowest=2.0),), FACTS).run(calibrated(TwoConcats()), ctx)
    found = grids(gm)
    assert found["conv2d"] != found["cat"]
    assert "joined" not in ctx.reports[-1].summary


@pytest.mark.parametrize("narrowest", [0.0, -1.0, float("nan")])
def test_the_share_of_a_joint_range_is_positive(narrowest: float) -> None:
    with pytest.raises(ValueError, match="narrowest must be greater than 0, got"):
        FakeQuantize(narrowest=narrowest)


def test_values_that_share_a_grid_have_the_same_one() -> None:
    gm = fake_quantized(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.MaxPool2d(2)), IMAGE)
    found = grids(gm)
    assert found["conv2d"] == found["relu"] == found["max_pool2d"] != found["input_1"]


def test_weights_have_a_scale_for_each_output_channel() -> None:
    gm = fake_quantized(nn.Conv2d(3, 4, 1), IMAGE)
    weight = gm.get_parameter("weight").detach()
    scale = gm.get_buffer("quantizers.conv2d_weight.scale")
    assert torch.equal(scale, weight_scales(weight, min_max().default.weight))
    assert scale.shape == (4,)
    assert not gm.get_buffer("quantizers.conv2d_weight.zero_point").any()


def test_weights_have_safe_pairs_on_request() -> None:
    config = QuantConfig.for_target("x86-64-v3")
    gm = fake_quantized(nn.Conv2d(3, 4, 3), IMAGE, config=config)
    weight = gm.get_parameter("weight").detach()
    scale = gm.get_buffer("quantizers.conv2d_weight.scale")
    assert torch.equal(scale, weight_scales(weight, config.default.weight))
    assert (scale > weight_scales(weight, WeightConfig())).any()
    calls = nodes_of(gm, qpc_ops.fake_quantize.default)
    assert [n.kwargs for n in calls] == [{}, {"safe_pairs": True}]


def test_weights_have_one_scale_on_request() -> None:
    gm = fake_quantized(nn.Linear(4, 4), IMAGE, config=min_max(per_channel=False))
    assert gm.get_buffer("quantizers.linear_weight.scale").shape == (1,)


@pytest.mark.parametrize("bits", [2, 4, 7, 8])
def test_fewer_bits_give_a_smaller_grid(bits: int) -> None:
    gm = fake_quantized(nn.Conv2d(3, 4, 1), IMAGE, config=min_max(bits, bits))
    activation, weight = nodes_of(gm, qpc_ops.fake_quantize.default)[:2]
    assert activation.args[3:5] == (0, 2**bits - 1)
    assert weight.args[3:5] == (-(2 ** (bits - 1) - 1), 2 ** (bits - 1) - 1)
    rounded = gm(IMAGE)
    assert len(rounded.unique()) <= 2**bits


def test_symmetric_grids_have_their_zero_point_in_the_middle() -> None:
    gm = fake_quantized(nn.Conv2d(3, 4, 1), IMAGE, config=min_max(symmetric=True))
    assert {grid.zero_point for grid in grids(gm).values()} == {128}


@pytest.mark.parametrize("bits", [8, 5])
def test_signed_grids_stand_for_the_same_reals(bits: int) -> None:
    model = randomized(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1)))
    unsigned, signed = (
        fake_quantized(model, IMAGE, config=min_max(bits), signed=signed)
        for signed in (False, True)
    )
    assert torch.equal(unsigned(IMAGE), signed(IMAGE))
    for name, grid in grids(unsigned).items():
        other = grids(signed)[name]
        shift = 2 ** (bits - 1)
        assert other == QParams(grid.scale, grid.zero_point - shift, -shift, shift - 1, torch.int8)


def test_a_channel_of_zeros_gets_a_scale_of_its_own() -> None:
    conv = nn.Conv2d(3, 3, 1)
    with torch.no_grad():
        conv.weight[0].zero_()
        conv.weight[1].zero_()
        conv.bias.copy_(torch.tensor([0.0, 3.0, 1.0]))  # type: ignore[union-attr]  # the layer has a bias
    gm = fake_quantized(conv, IMAGE, random=False)
    scale = gm.get_buffer("quantizers.conv2d_weight.scale")
    source = grids(gm)["input_1"].scale
    assert scale[0] == 1.0
    assert 3.0 / (source * float(scale[1])) == pytest.approx(2**30)


def test_weight_scales_are_raised_where_the_bias_would_not_fit() -> None:
    linear = nn.Linear(4, 2)
    with torch.no_grad():
        linear.weight.fill_(1e-9)
        linear.bias.copy_(torch.tensor([0.0, 1e6]))
    gm = fake_quantized(linear, IMAGE, random=False)
    scale = gm.get_buffer("quantizers.linear_weight.scale")
    source = grids(gm)["input_1"].scale
    assert float(scale[0]) == pytest.approx(1e-9 / 127)
    assert 1e6 / (source * float(scale[1])) <= 2**30


def test_a_bias_that_fits_no_scale_is_an_error() -> None:
    linear = nn.Linear(4, 2)
    with torch.no_grad():
        linear.bias.fill_(3e38)
    gm = calibrated(linear, 1e-30 * IMAGE)
    with pytest.raises(OverflowProofError, match="does not fit int32 at input scale"):
        FakeQuantize().apply(gm, PassContext())


def test_a_layer_that_two_calls_share_is_rounded_for_each() -> None:
    model = Parts(lambda net, x: net.a(net.a(x)), a=nn.Conv2d(3, 3, 1))
    gm = fake_quantized(model, IMAGE)
    names = [n.args[1].target for n in nodes_of(gm, qpc_ops.fake_quantize.default)]  # type: ignore[union-attr]  # an argument that is a node
    assert {"quantizers.conv2d_weight.scale", "quantizers.conv2d_1_weight.scale"} <= set(names)


def test_layers_that_stay_in_float_keep_their_weights() -> None:
    model = nn.Sequential(
        nn.Flatten(), nn.Unflatten(1, (3, -1)), nn.Conv1d(3, 3, 1), nn.Linear(16, 1)
    )
    gm = fake_quantized(model, IMAGE)
    layer = only(gm, aten.conv1d.default)
    assert layer.args[1].op == "get_attr"  # type: ignore[union-attr]  # an argument that is a node


def test_interpolation_rounds_to_the_grid_of_its_input() -> None:
    up = nn.Upsample(scale_factor=2, mode="bilinear")
    gm = fake_quantized(nn.Sequential(nn.Conv2d(3, 4, 1), up, nn.Sigmoid()), IMAGE)
    node = only(gm, aten.upsample_bilinear2d.default)
    (rounded,) = node.users
    assert rounded.target is qpc_ops.fake_quantize.default
    assert info(rounded).qparams == info(node).qparams == grids(gm)["conv2d"]
    assert [user.target for user in rounded.users] == [aten.sigmoid.default]


def test_observers_without_data_are_an_error_that_names_the_node() -> None:
    gm = observed(nn.Conv2d(3, 3, 1), IMAGE)
    with pytest.raises(PassError) as caught:
        FakeQuantize().apply(gm, PassContext())
    assert caught.value.full_text.startswith(
        "no calibration data was observed\n  at node: %observe_default : "
    )
    assert caught.value.fix == "calibrate with at least one sample"


def test_reports_how_many_grids_are_fixed() -> None:
    ctx = PassContext()
    Pipeline((FakeQuantize(),), FACTS).run(calibrated(nn.Conv2d(3, 3, 1)), ctx)
    assert ctx.reports[0].summary == "2 grids fixed"


# --- outliers -------------------------------------------------------------------------------------


def warnings_for(batch: Tensor, observer: ActivationObserver) -> list[str]:
    grid = ActivationConfig(observer=observer)
    config = QuantConfig(default=LayerConfig(activation=grid, results="integer"))
    gm = observed(nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU()), batch, config=config)
    for name, value in (("0.weight", 1.0), ("0.bias", 0.0)):
        nn.init.constant_(gm.get_parameter(name), value)
    ctx = PassContext()
    Pipeline((Calibrate([batch]), FakeQuantize()), Calibrate.requires).run(gm, ctx)
    return [str(remark) for remark in ctx.reports[1].warnings]


def uniform_with_outlier(value: float) -> Tensor:
    batch = torch.linspace(-1, 1, 2 * 256 * 256).reshape(2, 1, 256, 256).clone()
    batch[1, 0, 3, 4] = value
    return batch


def test_an_outlier_that_spoils_a_grid_is_warned_of_with_where_and_what_to_do(
    caplog: pytest.LogCaptureFixture,
) -> None:
    (text,) = warnings_for(uniform_with_outlier(1e4), MSE())
    assert text == (
        "input_1: 99.99% of its values other than 0 lie from -0.9999 to 0.9999, which is 0.02% of "
        "the range of its grid, 0 to 1e+04: it is rounded coarsely for the sake of outliers "
        "(as 1 after it); check the calibration data, or cut outliers off with "
        "ActivationConfig(observer=Percentile(percent=99.9))"
    )
    assert [r.message for r in caplog.records if r.name == "qpc.base"] == [text]


@pytest.mark.parametrize(
    ("value", "observer"),
    [
        (1.0, MSE()),
        (9.0, MSE()),  # a fifth of the grid is left for the others
        (1e4, Percentile(percent=99.9)),  # which cuts it off
        (1e4, MinMax()),  # which keeps no histogram
    ],
)
def test_a_grid_that_fits_nearly_all_values_is_not_warned_of(
    value: float, observer: ActivationObserver
) -> None:
    assert warnings_for(uniform_with_outlier(value), observer) == []


def test_zeros_are_not_taken_for_the_values_that_count() -> None:
    sparse = torch.zeros(2, 1, 128, 128)
    sparse[:, :, ::64, ::64] = torch.arange(1.0, 9.0).reshape(2, 1, 2, 2)
    assert warnings_for(sparse, MSE()) == []
    assert warnings_for(torch.zeros(1, 1, 4, 4), MSE()) == []

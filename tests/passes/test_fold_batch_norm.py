from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from qpc import convert, prepare_qat
from qpc.base import PassContext
from qpc.calls import aten
from qpc.errors import ConfigError
from qpc.hashing import fingerprint
from qpc.meta import info
from qpc.ops.affine import BatchNorm
from qpc.passes import FoldBatchNorm
from qpc.pipeline import Pipeline
from qpc.registry import op_name
from qpc.testing import assert_same_output, check_pass, randomized, traced
from tests.quantizing import min_max
from tests.small_models import nodes_of

IMAGE = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(1))


def test_folds_a_batch_norm_into_the_convolution_before_it() -> None:
    model = nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.ReLU())
    check_pass(
        FoldBatchNorm(),
        traced(randomized(model), IMAGE),
        IMAGE,
        before="""
            graph:
              %input_1: f32[N, 4, 6, 6] = input
              %conv2d: f32[N, 6, 4, 4] = aten.conv2d(%input_1, @0.weight, @0.bias)  # 0
              %batch_norm: f32[N, 6, 4, 4] = aten.batch_norm(%conv2d, @1.weight, @1.bias, @1.running_mean, @1.running_var, False, 0.1, 1e-05, False)  # 1
              %relu: f32[N, 6, 4, 4] = aten.relu(%batch_norm)  # 2
              return %relu
        """,  # noqa: E501
        after="""
            graph:
              %input_1: f32[N, 4, 6, 6] = input
              %conv2d: f32[N, 6, 4, 4] = aten.conv2d(%input_1, @0.weight, @0.bias, [1, 1], [0, 0], [1, 1], 1)  # 0
              %relu: f32[N, 6, 4, 4] = aten.relu(%conv2d)  # 2
              return %relu
        """,  # noqa: E501
    )


def test_the_folded_parameters_keep_their_names_and_those_of_the_batch_norm_go() -> None:
    model = nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6))
    result = check_pass(FoldBatchNorm(), traced(randomized(model), IMAGE), IMAGE)
    assert list(result.state_dict()) == ["0.weight", "0.bias"]
    assert isinstance(result.get_parameter("0.bias"), nn.Parameter)


LAYERS: dict[str, tuple[nn.Module, nn.Module, tuple[int, ...]]] = {
    "conv1d": (nn.Conv1d(4, 6, 3), nn.BatchNorm1d(6), (2, 4, 8)),
    "conv2d without bias": (nn.Conv2d(4, 6, 3, bias=False), nn.BatchNorm2d(6), (2, 4, 6, 6)),
    "grouped conv2d": (nn.Conv2d(4, 6, 3, groups=2), nn.BatchNorm2d(6), (2, 4, 6, 6)),
    "depthwise conv2d": (nn.Conv2d(4, 4, 3, groups=4), nn.BatchNorm2d(4), (2, 4, 6, 6)),
    "conv3d": (nn.Conv3d(4, 6, 3), nn.BatchNorm3d(6), (2, 4, 5, 5, 5)),
    "conv_transpose1d": (nn.ConvTranspose1d(4, 6, 3), nn.BatchNorm1d(6), (2, 4, 8)),
    "conv_transpose2d": (nn.ConvTranspose2d(4, 6, 3), nn.BatchNorm2d(6), (2, 4, 6, 6)),
    "grouped conv_transpose2d": (
        nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2, bias=False),
        nn.BatchNorm2d(6),
        (2, 4, 6, 6),
    ),
    "conv_transpose3d": (
        nn.ConvTranspose3d(4, 6, 3, groups=2),
        nn.BatchNorm3d(6),
        (2, 4, 5, 5, 5),
    ),
    "linear": (nn.Linear(4, 6), nn.BatchNorm1d(6), (5, 4)),
    "linear without bias": (nn.Linear(4, 6, bias=False), nn.BatchNorm1d(6), (5, 4)),
    "batch norm without affine": (
        nn.Conv2d(4, 6, 1),
        nn.BatchNorm2d(6, affine=False, eps=0.1),
        (2, 4, 6, 6),
    ),
}


@pytest.mark.parametrize("name", LAYERS)
def test_folds_into_every_kind_of_layer(name: str) -> None:
    layer, norm, shape = LAYERS[name]
    x = torch.randn(*shape)
    model = randomized(nn.Sequential(layer, norm))
    result = check_pass(FoldBatchNorm(), traced(model, x), x)
    assert nodes_of(result, aten.batch_norm.default) == []
    assert "1.weight" not in result.state_dict()


def test_folds_several_in_a_row() -> None:
    model = nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.BatchNorm2d(6))
    result = check_pass(FoldBatchNorm(), traced(randomized(model), IMAGE), IMAGE)
    assert nodes_of(result, aten.batch_norm.default) == []


def test_the_folded_layer_stands_for_the_batch_norms_value() -> None:
    model = nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6))
    result = check_pass(FoldBatchNorm(), traced(randomized(model), IMAGE), IMAGE)
    (conv,) = nodes_of(result, aten.conv2d.default)
    assert info(conv).value == "batch_norm"
    assert info(conv).module_path == "0"


def test_the_algebra_is_done_in_float64() -> None:
    model = nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6))
    gm = traced(randomized(model), IMAGE)
    result = check_pass(FoldBatchNorm(), gm, IMAGE)
    weight, gamma, variance = (
        gm.state_dict()[name].double() for name in ("0.weight", "1.weight", "1.running_var")
    )
    exact = weight * (gamma / torch.sqrt(variance + 1e-5))[:, None, None, None]
    assert torch.equal(result.get_parameter("0.weight"), exact.float())


# --- declined -------------------------------------------------------------------------------------


class SharedConv(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        result: Tensor = self.bn(y) + y
        return result


def test_declines_a_shared_conv_and_says_why() -> None:
    check_pass(
        FoldBatchNorm(),
        traced(randomized(SharedConv()), IMAGE),
        IMAGE,
        declines=["bn (batch_norm): conv (conv2d) is read by 2 nodes"],
    )


class Reused(nn.Module):
    """One convolution that is called twice; one batch norm for each call."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.a, self.b = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.b(self.conv(self.a(self.conv(x))))
        return result


def test_declines_a_weight_that_two_calls_share() -> None:
    check_pass(
        FoldBatchNorm(),
        traced(randomized(Reused()), IMAGE),
        IMAGE,
        declines=[
            "a (batch_norm): 'conv.weight' is shared by 2 nodes",
            "b (batch_norm_1): 'conv.weight' is shared by 2 nodes",
        ],
    )


def test_declines_tied_weights_under_two_names() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1))
    model[2].weight = model[0].weight
    gm = traced(randomized(model), IMAGE)
    (name,) = {str(n.target) for n in gm.graph.nodes if n.op == "get_attr"} & {
        "0.weight",
        "2.weight",
    }
    reason = f"1 (batch_norm): {name!r} is shared by 2 nodes"
    check_pass(FoldBatchNorm(), gm, IMAGE, declines=[reason])


def test_declines_a_batch_norm_without_running_statistics() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4, track_running_stats=False))
    check_pass(
        FoldBatchNorm(),
        traced(randomized(model), IMAGE),
        IMAGE,
        declines=["1 (batch_norm): batch norm keeps no running statistics"],
    )


class NormOfConcat(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.bn(torch.cat([x, self.conv(x)], 1))
        return result


def test_declines_a_batch_norm_behind_a_concat() -> None:
    check_pass(
        FoldBatchNorm(),
        traced(randomized(NormOfConcat()), IMAGE),
        IMAGE,
        declines=["bn (batch_norm): batch norm follows cat, which has no weight"],
    )


def test_declines_a_batch_norm_over_another_axis_of_a_linear_layer() -> None:
    model = randomized(nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(3)))
    x = torch.randn(2, 3, 4)
    reason = "1 (batch_norm): the channels of 0 (linear) are on another axis than batch norm's"
    check_pass(FoldBatchNorm(), traced(model, x), x, declines=[reason])


class ComputedWeight(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bn = nn.Parameter(torch.randn(4, 4, 1, 1)), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.bn(nn.functional.conv2d(x, self.weight * 2))
        return result


def test_declines_a_weight_that_is_computed() -> None:
    check_pass(
        FoldBatchNorm(),
        traced(randomized(ComputedWeight()), IMAGE),
        IMAGE,
        declines=[
            "bn (batch_norm): mul is computed, not a parameter; "
            "run qpc.passes.FoldWeights() first to make it one"
        ],
    )


def test_declines_a_batch_norm_in_training_mode() -> None:
    gm = traced(randomized(nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4))), IMAGE)
    (node,) = nodes_of(gm, aten.batch_norm.default)
    BatchNorm(node).training = True
    before, ctx = fingerprint(gm), PassContext()
    assert not FoldBatchNorm().apply(gm, ctx)  # check_pass would run the graph, which trains
    assert [str(r) for r in ctx.declined] == ["1 (batch_norm): batch norm is in training mode"]
    assert fingerprint(gm) == before


def test_a_graph_without_batch_norms_is_left_alone() -> None:
    gm = traced(nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU()), IMAGE)
    check_pass(FoldBatchNorm(), gm, IMAGE, exact=True)


class SpelledOut(nn.Module):
    """A batch norm as arithmetic, behind a layer or behind something else."""

    def __init__(self, before: nn.Module) -> None:
        super().__init__()
        self.before = before
        self.scale, self.shift = (nn.Parameter(torch.randn(4, 1, 1)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = (self.before(x) - self.shift) * self.scale + self.shift
        return result


def test_folds_arithmetic_with_a_constant_for_each_channel() -> None:
    gm = traced(SpelledOut(nn.Conv2d(4, 4, 3)), IMAGE)
    result = check_pass(FoldBatchNorm(), gm, IMAGE)
    assert [n.target for n in result.graph.nodes if n.op == "call_function"] == [
        aten.conv2d.default
    ]


def test_joins_arithmetic_that_has_no_layer_before_it_to_one_batch_norm() -> None:
    gm = traced(SpelledOut(nn.Sigmoid()), IMAGE)
    reason = "batch_norm_default_1: batch norm follows before (sigmoid), which has no weight"
    result = check_pass(FoldBatchNorm(), gm, IMAGE, declines=[reason])
    calls = [n.target for n in result.graph.nodes if n.op == "call_function"]
    assert calls == [aten.sigmoid.default, aten.batch_norm.default]
    (norm,) = nodes_of(result, aten.batch_norm.default)
    assert info(norm).value == "add"


def test_leaves_arithmetic_on_a_layer_without_a_batch_axis() -> None:
    gm = traced(SpelledOut(nn.Conv2d(4, 4, 1)), IMAGE[0])
    result = check_pass(FoldBatchNorm(), gm, IMAGE[0])
    assert nodes_of(result, aten.conv2d.default) != []


def test_batch_norms_whose_statistics_are_to_move_may_be_left_alone() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(4, 6, 3), nn.Conv2d(6, 4, 1)
            self.scale, self.norm = nn.Parameter(torch.rand(6, 1, 1)), nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.norm(self.second(self.first(x) * self.scale))
            return y

    pass_ = FoldBatchNorm(arithmetic_only=True)
    result = check_pass(pass_, traced(randomized(Scaled()), IMAGE), IMAGE)
    assert nodes_of(result, aten.batch_norm.default)
    assert not nodes_of(result, aten.mul.Tensor)


def test_what_is_arithmetic_only_is_true_or_false() -> None:
    with pytest.raises(ConfigError, match="arithmetic_only must be True or False"):
        FoldBatchNorm(arithmetic_only="yes")  # type: ignore[arg-type]  # the mistake on purpose


@pytest.mark.parametrize("per_channel", [True, False])
def test_rounded_weights_stay_on_the_points_of_their_grids(per_channel: bool) -> None:
    model = randomized(nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.ReLU()))
    with torch.no_grad():
        model.get_parameter("1.weight")[:3] = torch.tensor([0.0, -0.5, 1e-30])
    config = min_max(per_channel=per_channel)
    gm = prepare_qat(traced(model, IMAGE), [IMAGE], config, batch_norm="simulated")
    result = check_pass(FoldBatchNorm(), gm, IMAGE)
    assert not nodes_of(result, aten.batch_norm.default)
    assert isinstance(result.get_parameter("quantizers.conv2d_weight.scale"), nn.Parameter)
    assert torch.equal(result(IMAGE), convert(gm)(IMAGE))


class Scale(nn.Module):
    """A learned scale of the last axis."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.rand(channels) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Permute(nn.Module):
    def __init__(self, *order: int) -> None:
        super().__init__()
        self.order = order

    def forward(self, x: Tensor) -> Tensor:
        return x.permute(self.order)


MOVED: dict[str, tuple[nn.Module, tuple[int, ...], str]] = {
    "scale of the last axis": (nn.Sequential(nn.Linear(4, 6), Scale(6)), (2, 5, 4), "linear"),
    "batch norm of all tokens": (
        nn.Sequential(nn.Linear(4, 6), nn.Flatten(0, 1), nn.BatchNorm1d(6)),
        (2, 5, 4),
        "linear reshape",
    ),
    "scale behind a permutation": (
        nn.Sequential(nn.Conv2d(4, 6, 1), Permute(0, 2, 3, 1), Scale(6)),
        (2, 4, 5, 3),
        "conv2d permute",
    ),
    "batch norm behind a ReLU, before a layer": (
        nn.Sequential(nn.ReLU(), nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, groups=2, bias=False)),
        (2, 4, 5, 6),
        "relu conv2d",
    ),
    "scale before a convolution that pads": (
        nn.Sequential(Permute(0, 2, 3, 1), Scale(4), Permute(0, 3, 1, 2), nn.Conv2d(4, 6, 3, 1, 1)),
        (2, 4, 5, 6),
        "permute permute conv2d",
    ),
    "scale before a transposed convolution": (
        nn.Sequential(
            Permute(0, 2, 3, 1),
            Scale(4),
            Permute(0, 3, 1, 2),
            nn.ConvTranspose2d(4, 6, 3, groups=2),
        ),
        (2, 4, 5, 6),
        "permute permute conv_transpose2d",
    ),
    "shift before a convolution that pads": (
        nn.Sequential(nn.ReLU(), nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3, padding=1)),
        (2, 4, 5, 6),
        "relu batch_norm conv2d",
    ),
    "scale of the width": (
        nn.Sequential(nn.ReLU(), Scale(4), nn.Conv2d(4, 6, 1)),
        (2, 4, 5, 4),
        "relu mul conv2d",
    ),
    "heads": (
        nn.Sequential(nn.Linear(4, 6), nn.Unflatten(2, (3, 2)), Scale(2)),
        (2, 5, 4),
        "linear reshape mul",
    ),
}


@pytest.mark.parametrize("name", MOVED)
def test_folds_through_moves_that_keep_channels_and_into_the_next_layer(name: str) -> None:
    model, shape, left = MOVED[name]
    x = torch.randn(*shape)
    gm = Pipeline((FoldBatchNorm(),)).run(traced(randomized(model), x))
    assert_same_output(traced(randomized(model), x), gm, x)
    calls = [op_name(n) for n in gm.graph.nodes if n.op == "call_function"]
    assert " ".join(calls) == left


def test_joins_scale_and_shift_of_another_axis() -> None:
    class Affine(Scale):
        def forward(self, x: Tensor) -> Tensor:
            return (x * self.gamma + self.gamma).relu()

    x = torch.randn(2, 5, 4)
    declines = ["batch_norm_default: batch norm follows permute_default, which has no weight"]
    gm = check_pass(FoldBatchNorm(), traced(randomized(Affine(4)), x), x, declines=declines)
    calls = [op_name(n) for n in gm.graph.nodes if n.op == "call_function"]
    assert calls == ["permute", "batch_norm", "permute", "relu"]

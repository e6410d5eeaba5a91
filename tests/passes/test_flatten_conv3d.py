from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.fx import Node
from torch.nn import functional as F

import qpc
from qpc.calls import aten, qpc_ops
from qpc.edit import Editor
from qpc.lineage import KeptAxis, lineage, set_lineage
from qpc.passes import FlattenConv3d, MaskWeights
from qpc.pruning.weight_rules import Ratio
from qpc.testing import check_pass, randomized, traced
from tests.small_models import Call, nodes_of

X = torch.randn(2, 4, 5, 6, 7, generator=torch.Generator().manual_seed(0))


def test_taps_of_the_depth_become_channels() -> None:
    check_pass(
        FlattenConv3d(),
        traced(nn.Conv3d(4, 6, (2, 3, 1), stride=(1, 2, 1), bias=False), X),
        X,
        before="""
            graph:
              %input_1: f32[N, 4, 5, 6, 7] = input
              %conv3d: f32[N, 6, 4, 2, 7] = aten.conv3d(%input_1, @weight, None, [1, 2, 1])
              return %conv3d
        """,
        after="""
            graph:
              %input_1: f32[N, 4, 5, 6, 7] = input
              %slice_tensor: f32[N, 4, 4, 6, 7] = aten.slice.Tensor(%input_1, 2, 0, 4, 1)
              %slice_tensor_1: f32[N, 4, 4, 6, 7] = aten.slice.Tensor(%input_1, 2, 1, 5, 1)
              %reshape_default: f32[N, 1, 4, 4, 6, 7] = aten.reshape(%slice_tensor, \
[-1, 1, 4, 4, 6, 7])
              %reshape_default_1: f32[N, 1, 4, 4, 6, 7] = aten.reshape(%slice_tensor_1, \
[-1, 1, 4, 4, 6, 7])
              %cat_default: f32[N, 1, 8, 4, 6, 7] = aten.cat([%reshape_default, \
%reshape_default_1], 2)
              %reshape_default_2: f32[N, 8, 4, 6, 7] = aten.reshape(%cat_default, \
[-1, 8, 4, 6, 7])
              %permute_default: f32[N, 4, 8, 6, 7] = aten.permute(%reshape_default_2, \
[0, 2, 1, 3, 4])
              %reshape_default_3: f32[4N, 8, 6, 7] = aten.reshape(%permute_default, [-1, 8, 6, 7])
              %conv2d_default: f32[4N, 6, 2, 7] = aten.conv2d(%reshape_default_3, @weight, None, \
[2, 1], [0, 0], [1, 1], 1)
              %reshape_default_4: f32[N, 4, 6, 2, 7] = aten.reshape(%conv2d_default, \
[-1, 4, 6, 2, 7])
              %permute_default_1: f32[N, 6, 4, 2, 7] = aten.permute(%reshape_default_4, \
[0, 2, 1, 3, 4])
              return %permute_default_1
        """,
    )


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv3d(4, 6, 3, padding=1),
        nn.Conv3d(4, 6, (3, 1, 2), (2, 1, 1), (2, 0, 1), (1, 1, 2)),
        nn.Conv3d(4, 8, (3, 2, 1), groups=2),
        nn.Conv3d(4, 4, 3, padding=1, groups=4, bias=False),
        nn.Conv3d(4, 5, 1, stride=2),
        nn.MaxPool3d(2),
        nn.MaxPool3d((2, 3, 2), (2, 1, 1), padding=(1, 1, 0), ceil_mode=True),
        nn.MaxPool3d((1, 2, 3), dilation=2),
        nn.AvgPool3d(3, 2, 1),
        nn.AvgPool3d((2, 3, 3), (1, 2, 2), (0, 1, 1), count_include_pad=False),
        nn.AvgPool3d((1, 2, 2), 3, divisor_override=5),
        nn.AdaptiveAvgPool3d((5, 3, 7)),
    ],
)
def test_flattens_with_every_option(layer: nn.Module) -> None:
    result = check_pass(FlattenConv3d(), traced(layer, X), X)
    made = (aten.conv2d.default, aten.max_pool2d.default, aten.avg_pool2d.default)
    assert any(nodes_of(result, target) for target in made)
    assert not any("3d" in str(n.target) for n in result.graph.nodes)


def test_a_batch_norm_reads_the_images() -> None:
    layers = nn.Sequential(nn.Conv3d(4, 6, 2), nn.BatchNorm3d(6), nn.ReLU())
    result = check_pass(FlattenConv3d(), traced(randomized(layers), X), X)
    (norm,) = nodes_of(result, aten.batch_norm.default)
    assert isinstance(norm.args[0], Node)
    assert norm.args[0].target is aten.conv2d.default


def test_masks_and_lineage_follow_the_weight() -> None:
    masked = qpc.Pipeline((MaskWeights(Ratio(0.5)),)).run(traced(nn.Conv3d(4, 6, 2), X))
    channels = torch.tensor([True, False, True, False])
    Editor(masked, "test").set_tensor("masks.weight.axis_1", channels)
    set_lineage(masked, {("weight", 1): KeptAxis(5, (0, 1, 2, 4))})
    result = check_pass(FlattenConv3d(), masked, X)
    assert result.get_buffer("weight_masks.weight").shape == (6, 8, 2, 2)
    assert torch.equal(result.get_buffer("masks.weight.axis_1"), channels.repeat(2))
    assert lineage(result)["weight", 1] == KeptAxis(10, (0, 1, 2, 4, 5, 6, 7, 9))


def weight_is_computed(x: Tensor) -> Tensor:
    return F.conv3d(x, torch.ones(2, 4, 3, 3, 3) * x.mean())


class ReadsItsWeightTwice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(4, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x) + self.conv.weight.sum()
        return y


@pytest.mark.parametrize(
    ("model", "inputs", "reason"),
    [
        (nn.Conv3d(4, 6, 3), (X[0],), "conv3d: it has no batch axis"),
        (Call(weight_is_computed), (X,), "conv3d: its weight mul is computed from the input x"),
        (ReadsItsWeightTwice(), (X,), "conv (conv3d): its weight is read by sum_1 too"),
        (
            nn.AvgPool3d(3, padding=1, count_include_pad=False),
            (X,),
            "avg_pool3d: it does not count the padding of the depth",
        ),
        (
            nn.AvgPool3d(2, ceil_mode=True),
            (X,),
            "avg_pool3d: it ends in a part of a window along the depth",
        ),
    ],
)
def test_declines(model: nn.Module, inputs: tuple[Tensor, ...], reason: str) -> None:
    check_pass(FlattenConv3d(), traced(model, *inputs), inputs, declines=[reason])


class Video(nn.Module):
    """Whole, in space alone, in time alone by channel, with a residual and pools."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv3d(4, 8, 3, (1, 2, 2), 1, bias=False)
        self.norm = nn.BatchNorm3d(8)
        self.pool = nn.MaxPool3d(2, 1)
        self.space = nn.Conv3d(8, 8, (1, 3, 3), padding=(0, 1, 1))
        self.time = nn.Conv3d(8, 8, (3, 1, 1), padding=(1, 0, 0), groups=8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(torch.relu(self.norm(self.stem(x))))
        x = torch.relu(self.time(self.space(x)) + x)
        x = F.avg_pool3d(x, 2)
        y: Tensor = self.head(F.adaptive_avg_pool3d(x, 1).flatten(1))
        return y


@pytest.mark.tvm
def test_a_network_over_three_axes_becomes_integer_with_one_grid_by_value() -> None:
    x = torch.randn(2, 4, 5, 12, 12, generator=torch.Generator().manual_seed(1))
    gm = traced(randomized(Video()).eval(), x)
    result = qpc.quantize(gm, [x], effort="fast")
    assert len(nodes_of(result, qpc_ops.conv2d.default)) == 3
    assert len(nodes_of(result, qpc_ops.quantize.default)) == 1
    requantized = nodes_of(result, qpc_ops.lookup.default)
    assert not requantized, "slices of one value have its grid, and so has what joins them"
    assert torch.equal(qpc.compile(result)(x[:1]), result(x[:1]))
    error = (result(x) - gm(x)).norm() / gm(x).norm()
    assert error < 0.05, f"{error:.3f}: 8 bits in five layers"

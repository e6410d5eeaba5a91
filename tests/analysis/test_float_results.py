from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn import functional as F

from qpc.analysis.float_results import NOT_READ_BY_LAYERS
from qpc.analysis.quantization import QuantizationPlan, plan_quantization
from qpc.calls import aten, qpc_ops
from qpc.quant.config import LayerConfig, Override, QuantConfig
from qpc.testing import traced
from tests.quantizing import Parts, fake_quantized, integer, min_max

IMAGE = torch.randn(2, 3, 6, 6)


def conv(inputs: int = 3, outputs: int = 4) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def planned(function: Callable[[Any, Tensor], Any], **layers: nn.Module) -> QuantizationPlan:
    return plan_quantization(traced(Parts(function, **layers), IMAGE), QuantConfig())


def in_float(plan: QuantizationPlan) -> set[str]:
    """Operators that become integer ones, and whose results have no grid."""
    return {node.name for node in plan.integer if node not in plan.carrier}


def rounded(plan: QuantizationPlan) -> set[str]:
    return {node.name for node in plan.carrier}


def test_the_last_layer_is_not_rounded_and_the_one_before_it_is() -> None:
    plan = planned(lambda net, x: net.b(net.a(x)), a=conv(), b=conv(4))
    assert in_float(plan) == {"conv2d_1"}
    assert rounded(plan) == {"x", "conv2d"}


@pytest.mark.parametrize(
    "moves",
    [
        F.relu,
        F.relu6,
        lambda y: y.flatten(1),
        lambda y: F.relu(y).permute(0, 2, 3, 1)[:, 1:],
        lambda y: torch.cat([y, y.flip(3)], 1),
        lambda y: F.softmax(y.flatten(2), 1),
    ],
    ids=["relu", "relu6", "reshape", "permute", "concat", "a float operator behind a reshape"],
)
def test_what_only_moves_values_to_the_output_does_so_in_float(
    moves: Callable[[Tensor], Tensor],
) -> None:
    plan = planned(lambda net, x: moves(net.a(x)), a=conv())
    assert {node.name for node in plan.integer} == in_float(plan) == {"conv2d"}


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (lambda y: y + y.flip(2), "add"),
        (lambda y: y * y.flip(2), "mul"),
        (lambda y: y.mean((2, 3)), "mean"),
        (lambda y: F.avg_pool2d(y, 2), "avg_pool2d"),
        (torch.sigmoid, "sigmoid"),
    ],
)
def test_what_sums_integers_reads_a_grid_and_ends_in_float(
    function: Callable[[Tensor], Tensor], name: str
) -> None:
    plan = planned(lambda net, x: function(net.a(x)), a=conv())
    (last,) = in_float(plan)
    assert last.startswith(name)
    assert "conv2d" in rounded(plan)


def test_a_value_that_a_layer_reads_too_has_a_grid_for_all_its_readers() -> None:
    def forward(net: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        y = net.a(x)
        return y, net.b(y)

    assert in_float(planned(forward, a=conv(), b=conv(4))) == {"conv2d_1"}


def test_windows_of_many_values_are_not_moved_to_float() -> None:
    plan = planned(lambda net, x: F.max_pool2d(net.a(x), 2), a=conv())
    assert in_float(plan) == set()


def test_a_concat_keeps_its_grid_where_all_that_it_joins_has_one() -> None:
    def forward(net: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        y = net.a(x)
        return torch.cat([y, y], 1), net.b(y)

    assert "cat" in rounded(planned(forward, a=conv(), b=conv(4)))


def test_sums_between_norms_in_float_stay_there_and_say_why() -> None:
    """As in transformers: no layer reads the residual stream but through a norm."""

    def forward(net: Any, x: Tensor) -> Tensor:
        x = net.a(x)
        y = x + net.b(net.norm(x))
        result: Tensor = net.norm(y + net.c(net.norm(y)))
        return result

    layers = {name: nn.Linear(6, 6) for name in "abc"}
    plan = planned(forward, **layers, norm=nn.LayerNorm(6))
    assert in_float(plan) == {"linear", "linear_1", "linear_2"}
    declined = {node.name: why for node, why in plan.declined.items() if "add" in node.name}
    assert declined == dict.fromkeys(["add", "add_1"], NOT_READ_BY_LAYERS)


def test_a_sum_that_a_layer_reads_is_of_integers_although_a_norm_reads_it_too() -> None:
    def forward(net: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        y = net.a(x) + x
        return net.b(y), net.norm(y)

    layers = {name: nn.Linear(6, 6) for name in "ab"}
    assert "add" in rounded(planned(forward, **layers, norm=nn.LayerNorm(6)))


def test_the_configuration_may_have_results_rounded_all_the_same() -> None:
    graph = traced(nn.Sequential(conv(), nn.ReLU()), IMAGE)
    rounds = LayerConfig(results="integer")
    plan = plan_quantization(graph, QuantConfig(default=rounds))
    assert in_float(plan) == set()
    only_relu = QuantConfig(overrides=(Override(op="relu", use=rounds),))
    assert in_float(plan_quantization(graph, only_relu)) == set()


# --- what becomes of it ---------------------------------------------------------------------------


def two_stages(model: nn.Module, *inputs: Tensor) -> tuple[GraphModule, GraphModule]:
    fake = fake_quantized(model, *inputs, config=min_max(results="float32"))
    return fake, integer(fake)


@pytest.mark.parametrize(
    ("model", "ending"),
    [
        (conv(), "conv2d_float"),
        (nn.ConvTranspose2d(3, 4, 3, groups=1), "conv_transpose2d_float"),
        (nn.Linear(6, 5), "linear_float"),
        (nn.Sequential(conv(), nn.ReLU6()), "conv2d_float"),
        (nn.Sequential(conv(), nn.AvgPool2d(2)), "avg_pool2d_float"),
        (Parts(lambda net, x: net.a(x).mean((2, 3)), a=conv()), "mean_float"),
        (Parts(lambda net, x: net.a(x).sum((2, 3)), a=conv()), "sum_float"),
        (Parts(lambda net, x: net.a(x) * net.b(x), a=conv(), b=conv()), "mul_float"),
        (nn.Sequential(conv(), nn.Sigmoid()), "lookup"),
        (nn.Sequential(conv(), nn.Upsample(scale_factor=2), nn.BatchNorm2d(4)), "conv2d_float"),
    ],
)
def test_integers_end_where_fake_quantization_ends(model: nn.Module, ending: str) -> None:
    """To the rounding of float sums; behind a second grid, to a few of its 255 steps.

    Where a float sum lies between two steps of that grid, rounding may take the other one.
    """
    fake, made = two_stages(model, IMAGE)
    calls = [n for n in made.graph.nodes if n.op == "call_function"]
    assert calls[-1].target is getattr(qpc_ops, ending).default
    assert not any(n.target is qpc_ops.dequantize.default for n in calls)
    found, wanted = made(IMAGE), fake(IMAGE)
    only_the_input_has_a_grid = len(calls) == 2
    apart = 1e-4 if only_the_input_has_a_grid else 4 / 255
    assert (found - wanted).abs().max() <= apart * wanted.abs().max()


def test_a_bound_becomes_one_of_the_layer_before() -> None:
    _, made = two_stages(nn.Sequential(conv(), nn.ReLU6(), nn.Flatten()), IMAGE)
    (layer,) = [n for n in made.graph.nodes if n.target is qpc_ops.conv2d_float.default]
    assert layer.args[-2:] == (0.0, 6.0)
    assert not any(n.target is aten.clamp.default for n in made.graph.nodes)


def test_outputs_may_be_larger_than_all_that_calibration_saw() -> None:
    """These cancel in the calibration data."""
    layer = nn.Linear(2, 1, bias=False)
    with torch.no_grad():
        layer.weight.fill_(1.0)
    x = torch.tensor([[1.0, -0.9], [-1.0, 0.9]])
    for results, expected in (("float32", 1.9), ("integer", 0.1)):
        config = QuantConfig(default=LayerConfig(results=results))  # type: ignore[arg-type]  # both are
        made = integer(fake_quantized(layer, x, config=config, random=False))
        assert made(x.abs())[0, 0] == pytest.approx(expected, abs=0.05)

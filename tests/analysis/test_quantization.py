from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn import functional as F

from qpc.analysis.quantization import QuantizationPlan, plan_quantization
from qpc.calls import aten, set_arguments
from qpc.meta import info, update_info
from qpc.quant.config import ActivationConfig, LayerConfig, Override, QuantConfig
from qpc.registry import Role, role_of
from qpc.testing import traced
from tests.small_models import Call, nodes_of, only

IMAGE = torch.zeros(2, 3, 8, 8)
FOLD = "is computed, not a parameter; run qpc.passes.FoldWeights() first to make it one"

ROUNDED = LayerConfig(results="integer")
"""So that every value has a grid; `qpc.analysis.float_results` has its own tests."""


class Net(nn.Module):
    """Two convolutions `a` and `b` of three channels, a linear layer `fc`, and any forward."""

    def __init__(self, function: Callable[[Net, Tensor], object]) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        self.fc = nn.Linear(8, 8)
        self.slopes = nn.Parameter(torch.ones(3))
        self.scales = nn.Parameter(torch.ones(3, 1, 1))
        self.one = nn.Parameter(torch.ones(1, 1, 1, 1, 1))
        self.function = function

    def forward(self, x: Tensor) -> object:
        return self.function(self, x)


def plan_of(
    function: Callable[[Net, Tensor], object], config: QuantConfig | None = None
) -> tuple[GraphModule, QuantizationPlan]:
    gm = traced(Net(function), IMAGE)
    return gm, plan_quantization(gm, config or QuantConfig(default=ROUNDED))


def integers(plan: QuantizationPlan) -> set[str]:
    return {node.name for node in plan.integer}


def reasons(plan: QuantizationPlan) -> dict[str, str]:
    return {node.name: why for node, why in plan.declined.items()}


def groups(plan: QuantizationPlan) -> dict[str, set[str]]:
    """The values that share a grid, by the node after which its statistics are taken."""
    found: dict[str, set[str]] = {}
    for node, carrier in plan.carrier.items():
        found.setdefault(carrier.name, set()).add(node.name)
    return found


# --- which operators become integer operators -----------------------------------------------------


def test_layers_and_what_is_between_them_become_integer() -> None:
    _, plan = plan_of(lambda net, x: net.b(torch.sigmoid(F.max_pool2d(net.a(x), 2))))
    assert integers(plan) == {"conv2d", "max_pool2d", "sigmoid", "conv2d_1"}
    assert plan.declined == {}


def test_pointwise_operators_behind_the_input_stay_in_float() -> None:
    _, plan = plan_of(lambda net, x: net.a(torch.sigmoid(x.permute(0, 1, 3, 2)) / 2))
    assert integers(plan) >= {"conv2d"}


def test_operators_without_a_layer_next_to_them_stay_in_float() -> None:
    gm = traced(Call(lambda x: torch.relu(x) + x), IMAGE)
    plan = plan_quantization(gm, QuantConfig())
    assert plan.integer == frozenset()
    assert plan.carrier == {}
    assert set(reasons(plan).values()) == {"no quantized convolution or linear layer is next to it"}


REFUSED: dict[str, tuple[Callable[[Net, Tensor], object], dict[str, str]]] = {
    "unknown operator": (
        lambda net, x: net.a(x).softmax(1),
        {"softmax": "softmax has no integer form"},
    ),
    "operator behind one in float": (
        lambda net, x: torch.sigmoid(net.a(x).softmax(1)),
        {
            "softmax": "softmax has no integer form",
            "sigmoid": "its input softmax stays in float",
        },
    ),
    "another dtype": (
        lambda net, x: net.a(x).double().relu(),
        {"to": "to has no integer form", "relu": "relu works on torch.float64"},
    ),
    "an input of another dtype": (
        lambda net, x: net.a(x) * (x > 0),
        {"mul": "an input is not float32"},
    ),
    "another layer": (
        lambda net, x: F.conv1d(net.a(x).flatten(2), net.a.weight[..., 0]),
        {"conv1d": "conv1d has no integer form yet"},
    ),
    "computed weight": (
        lambda net, x: F.conv2d(net.a(x), net.b.weight * 2),
        {"conv2d_1": f"its weight mul {FOLD}"},
    ),
    "computed bias": (
        lambda net, x: F.conv2d(net.a(x), net.b.weight, net.a.weight.sum((1, 2, 3))),
        {"conv2d_1": f"its bias sum_1 {FOLD}"},
    ),
    "layer on a parameter": (
        lambda net, x: net.a(x) + F.linear(net.fc.weight, net.fc.weight),
        {"add": "its input linear stays in float"},
    ),
    "no batch": (
        lambda net, x: net.b(x[0]) + net.a(x),
        {
            "conv2d": "the convolution has no batch dimension",
            "add": "its input b (conv2d) stays in float",
            "select": "no quantized convolution or linear layer is next to it",
        },
    ),
    "sum with a parameter": (
        lambda net, x: net.a(x) + net.fc.weight,
        {},
    ),
    "scale of an input": (
        lambda net, x: net.a(x.flip(2) * net.scales),
        {"mul": "it reads an input of the model, whose channels may differ too much for one grid"},
    ),
    "scale of a value with two open axes": (
        lambda net, x: net.a(x).permute(2, 1, 0, 3) * net.scales,
        {"mul": "an axis other than the first grows with the batch"},
    ),
    "scale behind an operator in float": (
        lambda net, x: net.b(net.a(x).softmax(1) * net.scales),
        {
            "softmax": "softmax has no integer form",
            "mul": "its input softmax stays in float",
        },
    ),
    "mean over the batch": (
        lambda net, x: net.a(x).mean((0, 2)),
        {"mean": "it reduces the batch"},
    ),
    "ceil_mode": (
        lambda net, x: F.avg_pool2d(net.a(x), 3, ceil_mode=True, divisor_override=2),
        {"avg_pool2d": "average pooling with ceil_mode has a divisor of its own"},
    ),
    "padding that does not count": (
        lambda net, x: F.avg_pool2d(net.a(x), 2, padding=1, count_include_pad=False),
        {},
    ),
    "padding of one axis by reflection": (
        lambda net, x: F.pad(net.a(x).flatten(2), (1, 1), mode="reflect"),
        {"pad": "it pads something else than the rows and columns of images"},
    ),
    "a slope for each channel": (
        lambda net, x: F.prelu(net.a(x), net.slopes),
        {},
    ),
    "a number that adds axes": (
        lambda net, x: net.a(x) * net.one,
        {"mul": "its parameter adds axes"},
    ),
    "padding by a value": (
        lambda net, x: F.pad(net.a(x), (1, 1), value=2.0),
        {"constant_pad_nd_default": "it pads with 2.0, not with 0"},
    ),
    "computed sizes": (
        lambda net, x: net.a(x).roll(x.shape[0], 2),
        {"roll": "its sizes are computed"},
    ),
    "moved parameter": (
        lambda net, x: (net.a(x), net.fc.weight.permute(1, 0)),
        {},
    ),
    "pointwise on a parameter": (
        lambda net, x: (net.a(x), torch.sigmoid(net.fc.weight)),
        {},
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_stays_in_float_has_a_reason(name: str) -> None:
    function, expected = REFUSED[name]
    _, plan = plan_of(function)
    assert {k: v for k, v in reasons(plan).items() if k in expected or expected == {}} == expected
    assert not integers(plan) & expected.keys()


@pytest.mark.parametrize(
    ("reduce", "count"),
    [
        (lambda x: x.mean((2, 3)), 9_000_000),
        (lambda x: x.sum((1, 2, 3)), 27_000_000),
        (lambda x: F.adaptive_avg_pool2d(x, 1), 9_000_000),
        (lambda x: F.avg_pool2d(x, 2), 8_700_000),
    ],
)
def test_sums_that_may_not_fit_stay_in_float(
    reduce: Callable[[Tensor], Tensor], count: int
) -> None:
    gm, _ = plan_of(lambda net, x: reduce(net.a(x)))
    for node in gm.graph.nodes:  # as if it had been traced so
        if (shape := info(node).shape) and len(shape) == 4:
            update_info(node, shape=(*shape[:2], 3000, 3000))
    pool = nodes_of(gm, aten.avg_pool2d.default)
    if pool:
        set_arguments(pool[0], kernel_size=[3000, 2900])
    ((_, why),) = reasons(plan_quantization(gm, QuantConfig())).items()
    assert why == f"its sum of {count} values may not fit 32 bits, which 8421504 always do"


def test_dropout_in_training_mode_stays_in_float() -> None:
    gm, _ = plan_of(lambda net, x: F.dropout(net.a(x), 0.5, training=False))
    node = only(gm, aten.dropout.default)
    node.args = (node.args[0], 0.5, True)
    assert reasons(plan_quantization(gm, QuantConfig())) == {
        "dropout": "dropout is in training mode"
    }


def test_bounds_that_are_tensors_stay_in_float() -> None:
    gm, _ = plan_of(lambda net, x: net.a(x).clamp(0, 1))
    node = only(gm, aten.clamp.default)
    node.args = (node.args[0], node.args[0], 1)
    assert reasons(plan_quantization(gm, QuantConfig())) == {"clamp": "its bounds are tensors"}


def test_arithmetic_with_a_number_is_pointwise() -> None:
    gm, plan = plan_of(lambda net, x: (net.a(x) * 2 + 1) / 3 - net.b(x))
    roles = {node.name: role_of(node) for node in gm.graph.nodes if node.op == "call_function"}
    assert roles["mul"] is roles["add"] is roles["div"] is Role.POINTWISE
    assert roles["sub"] is Role.COMBINE
    assert integers(plan) == {"conv2d", "conv2d_1", "mul", "add", "div", "sub"}


def test_a_value_combined_with_itself_is_pointwise() -> None:
    gm, plan = plan_of(lambda net, x: (y := net.a(x)) * y)
    assert role_of(only(gm, aten.mul.Tensor)) is Role.POINTWISE
    assert integers(plan) == {"conv2d", "mul"}


def test_arithmetic_on_parameters_is_not_reported() -> None:
    _, plan = plan_of(lambda net, x: net.a(x) + (net.fc.weight * 2).exp())
    assert reasons(plan) == {"add": "its input exp stays in float"}


# --- shared grids ---------------------------------------------------------------------------------


def test_a_layer_takes_the_grid_of_its_relu() -> None:
    _, plan = plan_of(lambda net, x: torch.relu(net.a(x)))
    assert groups(plan) == {"x": {"x"}, "relu": {"conv2d", "relu"}}


def test_a_layer_with_two_readers_keeps_its_own_grid() -> None:
    _, plan = plan_of(lambda net, x: net.b(torch.relu(y := net.a(x))) + y)
    assert groups(plan)["relu"] == {"relu"}
    assert groups(plan)["conv2d"] == {"conv2d"}


def test_a_layer_whose_value_is_an_output_keeps_its_own_grid() -> None:
    _, plan = plan_of(lambda net, x: (y := net.a(x), torch.relu(y)))
    assert groups(plan)["conv2d"] == {"conv2d"}
    assert groups(plan)["relu"] == {"relu"}


def test_moving_values_keeps_their_grid() -> None:
    _, plan = plan_of(
        lambda net, x: net.fc(
            F.max_pool2d(net.a(x), 2, 1, 1).permute(0, 2, 3, 1).flatten(2)[..., :8]
        )
    )
    assert groups(plan)["conv2d"] == {
        "conv2d",
        "max_pool2d",
        "permute",
        "reshape_default",
        "slice_tensor",
    }


def test_a_relu_behind_a_max_pool_is_taken_over_through_it() -> None:
    _, plan = plan_of(lambda net, x: torch.relu(F.max_pool2d(net.a(x), 2)))
    assert groups(plan)["relu"] == {"conv2d", "max_pool2d", "relu"}


def test_a_relu_behind_a_max_pool_of_a_shared_value_has_its_own_grid() -> None:
    _, plan = plan_of(lambda net, x: (y := net.a(x), torch.relu(F.max_pool2d(y, 2))))
    assert groups(plan)["conv2d"] == {"conv2d", "max_pool2d"}
    assert groups(plan)["relu"] == {"relu"}


def test_a_chain_of_clamps_shares_the_grid_of_the_last() -> None:
    _, plan = plan_of(lambda net, x: F.relu6(torch.relu(net.a(x))))
    assert groups(plan)["clamp_default"] == {"conv2d", "relu", "clamp_default"}


def test_the_operands_of_a_concat_take_its_grid() -> None:
    _, plan = plan_of(lambda net, x: torch.cat([torch.relu(net.a(x)), net.b(x)], 1))
    assert groups(plan)["cat"] == {"conv2d", "relu", "conv2d_1", "cat"}


def test_an_operand_with_other_readers_keeps_its_grid() -> None:
    _, plan = plan_of(lambda net, x: torch.cat([y := net.a(x), net.b(y)], 1))
    assert groups(plan)["cat"] == {"conv2d_1", "cat"}
    assert groups(plan)["conv2d"] == {"conv2d"}


def test_a_concat_of_one_value_twice_shares_its_grid() -> None:
    _, plan = plan_of(lambda net, x: torch.cat([y := net.a(x), y], 1))
    assert groups(plan)["cat"] == {"conv2d", "cat"}


def test_an_input_of_the_graph_keeps_its_grid_in_a_concat_with_others() -> None:
    _, plan = plan_of(lambda net, x: torch.cat([net.a(x), x], 1))
    assert groups(plan)["x"] == {"x"}
    assert groups(plan)["cat"] == {"conv2d", "cat"}


def test_a_concat_of_concats_is_one_grid() -> None:
    _, plan = plan_of(
        lambda net, x: torch.cat([torch.cat([net.a(x), net.b(x)], 1), net.b(x + 1)], 1)
    )
    assert groups(plan)["cat_1"] >= {"conv2d", "conv2d_1", "cat", "cat_1"}


def test_sums_products_and_means_have_grids_of_their_own() -> None:
    _, plan = plan_of(lambda net, x: (net.a(x) * net.b(x)).mean((2, 3)))
    assert groups(plan) == {name: {name} for name in ("x", "conv2d", "conv2d_1", "mul", "mean")}


# --- configuration --------------------------------------------------------------------------------

FOUR = LayerConfig(activation=ActivationConfig(bits=4), results="integer")


def test_every_quantized_value_has_the_default_configuration() -> None:
    _, plan = plan_of(lambda net, x: torch.relu(net.a(x)))
    assert set(plan.configs.values()) == {ROUNDED}
    assert {node.name for node in plan.grid_configs} == {"x", "relu"}


@pytest.mark.parametrize(
    "override",
    [
        Override(module="b", use=FOUR),
        Override(pattern="[b-c]", use=FOUR),
        Override(op="conv2d", pattern="b*", use=FOUR),
        Override(position="output", use=FOUR),
    ],
    ids=["module", "pattern", "op and pattern", "position"],
)
def test_overrides_select_one_layer(override: Override) -> None:
    gm, plan = plan_of(
        lambda net, x: net.b(net.a(x)), QuantConfig(default=ROUNDED, overrides=(override,))
    )
    first, second = nodes_of(gm, aten.conv2d.default)
    assert plan.configs[first] == ROUNDED
    assert plan.configs[second] == plan.grid_configs[second] == FOUR


def test_the_grid_that_a_layer_shares_with_its_relu_is_configured_with_the_layer() -> None:
    config = QuantConfig(default=ROUNDED, overrides=(Override(module="a", use=FOUR),))
    gm, plan = plan_of(lambda net, x: torch.relu(net.a(x)), config)
    assert plan.grid_configs[only(gm, aten.relu.default)] == FOUR


def test_the_grid_of_a_concat_is_configured_with_the_concat() -> None:
    config = QuantConfig(default=ROUNDED, overrides=(Override(op="cat", use=FOUR),))
    gm, plan = plan_of(lambda net, x: torch.cat([net.a(x), net.b(x)], 1), config)
    assert plan.grid_configs[only(gm, aten.cat.default)] == FOUR


def test_position_input_selects_the_input_and_the_layers_that_read_it() -> None:
    config = QuantConfig(default=ROUNDED, overrides=(Override(position="input", use=FOUR),))
    gm, plan = plan_of(lambda net, x: net.b(net.a(x.flip(2))), config)
    first, second = nodes_of(gm, aten.conv2d.default)
    (x,) = (node for node in gm.graph.nodes if node.op == "placeholder")
    assert plan.configs[first] == plan.grid_configs[plan.carrier[x]] == FOUR
    assert plan.configs[second] == ROUNDED


def test_position_output_selects_the_layer_behind_the_last_relu_and_flatten() -> None:
    config = QuantConfig(default=ROUNDED, overrides=(Override(position="output", use=FOUR),))
    gm, plan = plan_of(lambda net, x: torch.relu(net.b(net.a(x))).flatten(1), config)
    first, second = nodes_of(gm, aten.conv2d.default)
    assert plan.configs[first] == ROUNDED
    assert plan.configs[second] == FOUR


def test_a_layer_kept_in_float_takes_what_hangs_on_it_along() -> None:
    config = QuantConfig(overrides=(Override(module="a", use="float"),))
    _, plan = plan_of(lambda net, x: net.b(torch.relu(net.a(x))), config)
    assert integers(plan) == {"conv2d_1"}
    assert reasons(plan) == {
        "conv2d": "kept in float by the configuration",
        "relu": "its input a (conv2d) stays in float",
    }


def test_an_input_kept_in_float_keeps_the_layers_on_it_in_float() -> None:
    config = QuantConfig(overrides=(Override(op="input", use="float"),))
    _, plan = plan_of(lambda net, x: net.b(net.a(x)), config)
    assert integers(plan) == {"conv2d_1"}
    assert reasons(plan) == {"conv2d": "its input x is kept in float"}


def test_sites_tell_overrides_that_match_nothing() -> None:
    wrong, right = Override(module="c", use=FOUR), Override(module="a", use=FOUR)
    config = QuantConfig(overrides=(wrong, right))
    _, plan = plan_of(lambda net, x: net.a(x), config)
    assert config.unmatched(plan.sites) == (wrong,)


def test_a_small_float_operand_that_is_broadcast_is_rounded() -> None:
    def with_gates(net: Net, x: Tensor) -> Tensor:
        y = net.a(x)
        gated: Tensor = net.b(y * y.mean((2, 3), keepdim=True).softmax(1))
        return gated

    _, plan = plan_of(with_gates)
    assert integers(plan) >= {"conv2d", "mul", "conv2d_1"}
    assert groups(plan)["softmax"] == {"softmax"}


def test_a_float_operand_of_the_size_of_the_result_keeps_a_sum_in_float() -> None:
    _, plan = plan_of(lambda net, x: net.b(net.a(x) + x.softmax(1)))
    assert reasons(plan)["add"] == "its input softmax stays in float"


def test_what_joins_slices_of_one_value_keeps_its_grid() -> None:
    def focus(net: Net, x: Tensor) -> Tensor:
        y = net.a(x)
        joined: Tensor = net.b(torch.cat([y[:, :, ::2], y[:, :, 1::2]], 2))
        return joined

    _, plan = plan_of(focus)
    assert groups(plan)["conv2d"] == {"conv2d", "slice_tensor", "slice_tensor_1", "cat"}

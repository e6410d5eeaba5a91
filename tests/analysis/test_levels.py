"""Every level of a graph says more than its quick check: what breaks it is found, with the node."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

import qpc
from qpc.calls import aten, qpc_ops, set_arguments
from qpc.errors import InvariantError
from qpc.facts import CALIBRATED, CORE_FORM, FAKE_QUANTIZED, INTEGER, OBSERVED, Fact
from qpc.meta import info, update_info
from qpc.passes import Calibrate
from qpc.testing import traced
from qpc.types import BatchDim
from tests.quantizing import fake_quantized, integer, observed
from tests.small_models import nodes_of

X = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
MODEL = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 2))


def thorough(fact: Fact, gm: GraphModule) -> str | None:
    return fact.violation(gm, thorough=True)


def fake() -> GraphModule:
    return fake_quantized(MODEL, X)


# --- float ----------------------------------------------------------------------------------------


def test_a_traced_graph_is_core_form_and_not_integer() -> None:
    gm = traced(MODEL, X)
    assert thorough(CORE_FORM, gm) is None
    assert thorough(INTEGER, gm) == "linear and all other operators are float"
    violation = INTEGER.violation(gm)
    assert violation is not None
    assert violation.node is nodes_of(gm, aten.linear.default)[0]


def test_noted_shapes_and_dtypes_are_those_of_the_operators() -> None:
    gm = traced(nn.ReLU(), X)
    (relu,) = nodes_of(gm, aten.relu.default)
    update_info(relu, shape=(BatchDim(), 4))
    assert CORE_FORM.violation(gm) is None
    assert thorough(CORE_FORM, gm) == (
        "relu yields torch.float32 of shape (2, 3) for a batch of 2, "
        "but torch.float32 of shape (N, 4) is noted"
    )
    update_info(relu, shape=(2, 3))  # right for one batch size
    assert "for a batch of 3, but torch.float32 of shape (2, 3)" in str(thorough(CORE_FORM, gm))
    update_info(relu, shape=(BatchDim(), 3), dtype=torch.float64)
    assert "but torch.float64" in str(thorough(CORE_FORM, gm))


# --- observers ------------------------------------------------------------------------------------


def test_observers_have_calls_settings_and_statistics() -> None:
    gm = observed(MODEL, X)
    assert thorough(OBSERVED, gm) is None
    first, second = nodes_of(gm, qpc_ops.observe.default)[:2]
    name, other = first.args[1], second.args[1]
    set_arguments(second, observer=name)
    assert thorough(OBSERVED, gm) == f"{second.name} and {first.name} have one observer"
    set_arguments(second, observer="observers.none")
    assert thorough(OBSERVED, gm) == "there is no observer 'observers.none'"
    set_arguments(second, observer=other)
    del gm.get_submodule(str(name)).extent
    assert thorough(OBSERVED, gm) == f"observer {name!r} keeps [], not ['extent']"


def test_an_observer_without_a_call_or_settings_is_named() -> None:
    gm = observed(MODEL, X)
    linear = nodes_of(gm, aten.linear.default)[0]
    name = info(linear).observer
    update_info(linear, observer="observers.other")
    assert "has the observer 'observers.other', which is not called" in str(thorough(OBSERVED, gm))
    update_info(linear, observer=name)
    call = nodes_of(gm, qpc_ops.observe.default)[0]
    update_info(call, config=None)
    assert thorough(OBSERVED, gm) == f"observer {call.args[1]!r} has no configuration"


def test_integer_operators_to_be_read_observed_values() -> None:
    gm = observed(MODEL, X)
    linear = nodes_of(gm, aten.linear.default)[0]
    (source,) = gm.graph.find_nodes(op="placeholder")
    linear.replace_input_with(linear.all_input_nodes[0], source)
    update_info(source, observer=None, config=None)
    assert "which 0 (linear) reads, has no observer" in str(thorough(OBSERVED, gm))


def test_statistics_are_finite() -> None:
    calibrated = qpc.Pipeline((Calibrate([X]),), {OBSERVED}).run(observed(MODEL, X))
    assert thorough(CALIBRATED, calibrated) is None
    call = nodes_of(calibrated, qpc_ops.observe.default)[0]
    calibrated.get_buffer(f"{call.args[1]}.extent")[1] = torch.inf
    assert thorough(CALIBRATED, calibrated) == (
        f"'extent' of observer {call.args[1]!r} is not finite"
    )


# --- fake quantization ----------------------------------------------------------------------------


def buffer(gm: GraphModule, number: int, name: str) -> Tensor:
    """The scale or zero point of one call that rounds."""
    call = nodes_of(gm, qpc_ops.fake_quantize.default)[number]
    which = {"scale": 1, "zero_point": 2}[name]
    return gm.get_buffer(str(call.all_input_nodes[which].target))


def test_rounding_is_to_the_grids_that_are_noted() -> None:
    gm = fake()
    assert thorough(FAKE_QUANTIZED, gm) is None
    call = nodes_of(gm, qpc_ops.fake_quantize.default)[0]
    grid = info(call).qparams
    assert grid is not None
    update_info(call, qparams=replace(grid, scale=grid.scale * 2))
    assert "is noted" in str(thorough(FAKE_QUANTIZED, gm))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("scale", 0.0, "a scale is not from the smallest to the largest that a grid may have"),
        ("scale", torch.nan, "a scale is not from the smallest to the largest"),
        ("zero_point", 256, "a zero point is not from 0 to 255"),
    ],
)
def test_grids_are_legal(name: str, value: float, message: str) -> None:
    gm = fake()
    buffer(gm, 0, name).fill_(value)
    assert message in str(thorough(FAKE_QUANTIZED, gm))


def test_weights_are_rounded_symmetrically_to_their_bits() -> None:
    gm = fake()
    rounded = nodes_of(gm, aten.linear.default)[0].all_input_nodes[1]
    set_arguments(rounded, lo=-7, hi=7)
    assert "weights of 8 bits are rounded to -7..7" in str(thorough(FAKE_QUANTIZED, gm))
    set_arguments(rounded, lo=-100, hi=127)
    assert "weights must be rounded symmetrically" in str(thorough(FAKE_QUANTIZED, gm))
    rounded.replace_all_uses_with(rounded.all_input_nodes[0])
    gm.graph.erase_node(rounded)
    assert thorough(FAKE_QUANTIZED, gm) == "the weight of 0 (linear) is not rounded"


def test_a_grid_is_a_constant() -> None:
    gm = fake()
    call = nodes_of(gm, qpc_ops.fake_quantize.default)[0]
    call.replace_input_with(call.all_input_nodes[1], call.all_input_nodes[0])
    assert "its grid is no constant" in str(thorough(FAKE_QUANTIZED, gm))


# --- integers -------------------------------------------------------------------------------------


def test_integers_have_the_grids_that_are_noted() -> None:
    gm = integer(fake())
    assert thorough(INTEGER, gm) is None
    (quantize,) = nodes_of(gm, qpc_ops.quantize.default)
    grid = info(quantize).qparams
    assert grid is not None
    update_info(quantize, qparams=replace(grid, scale=grid.scale * 2))
    assert "is noted" in str(thorough(INTEGER, gm))
    signed = replace(grid, dtype=torch.int8, lo=-128, hi=127, zero_point=0)
    update_info(quantize, qparams=signed)
    assert "its grid is of torch.int8, its value of torch.uint8" in str(thorough(INTEGER, gm))


def test_sums_are_proven_not_to_overflow() -> None:
    gm = integer(fake())
    linear = nodes_of(gm, qpc_ops.linear.default)[0]
    bias = next(n for n in linear.all_input_nodes if str(n.target).endswith("bias"))
    gm.get_buffer(str(bias.target)).fill_(2**31 - 1)
    assert "which does not fit 32 bits" in str(thorough(INTEGER, gm))


class Between(nn.Module):
    """A function that has no integer form, between two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(3, 3), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(self.first(x).softmax(1))
        return y


def test_float_operators_between_integers_have_a_reason() -> None:
    gm = integer(fake_quantized(Between(), X))
    assert thorough(INTEGER, gm) is None
    (softmax,) = nodes_of(gm, aten.softmax.int)
    update_info(softmax, declined="")
    assert thorough(INTEGER, gm) == "softmax stays in float between integers without reason"


def test_a_thorough_pipeline_names_the_pass_and_the_reason() -> None:
    class Careless(qpc.Pass, name="careless", requires={CORE_FORM}):
        """Notes a wrong shape."""

        def apply(self, gm: GraphModule, ctx: qpc.PassContext) -> bool:
            update_info(nodes_of(gm, aten.relu.default)[0], shape=(BatchDim(), 9))
            return True

    gm, pipeline = traced(nn.ReLU(), X), qpc.Pipeline((Careless(),))
    pipeline.run(gm)
    with pytest.raises(InvariantError, match="after 'careless', fact 'core-form' does not hold"):
        pipeline.run(gm, qpc.PassContext(thorough=True))

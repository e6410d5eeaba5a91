from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.fx import Graph, GraphModule, Node, symbolic_trace

import qpc
from qpc.calls import aten, qpc_ops
from qpc.errors import PassError
from qpc.facts import CALIBRATED, CORE_FORM, FAKE_QUANTIZED, INTEGER, OBSERVED, Fact
from qpc.meta import update_info
from qpc.passes import Calibrate, FakeQuantize
from qpc.pipeline import Pipeline
from qpc.quant.config import LayerConfig
from tests.quantizing import converted, fake_quantized, observed
from tests.small_models import graph_of, nodes_of

X = torch.randn(4, 3)
MODEL = nn.Sequential(nn.Linear(3, 3), nn.ReLU())


def test_facts_are_equal_by_name() -> None:
    assert Fact("a", lambda gm: None) == Fact("a", lambda gm: "never")
    assert {CORE_FORM, OBSERVED, CALIBRATED, FAKE_QUANTIZED, INTEGER} == {
        Fact(name, lambda gm: None)
        for name in ("core-form", "observed", "calibrated", "fake-quantized", "integer")
    }
    assert repr(CORE_FORM) == "Fact(name='core-form')"


# --- core form ------------------------------------------------------------------------------------


def test_modules_and_methods_are_not_core_form() -> None:
    class Methods(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.relu()

    only_overloads = "core form has only calls of operator overloads"
    module = symbolic_trace(nn.Sequential(nn.ReLU()))
    assert CORE_FORM.check(module) == f"_0: is a call_module; {only_overloads}"
    method = symbolic_trace(Methods())
    assert CORE_FORM.check(method) == f"relu: is a call_method; {only_overloads}"


def test_python_functions_are_not_core_form() -> None:
    gm = graph_of(lambda g, x: g.call_function(torch.relu, (x,)), 3)
    problem = CORE_FORM.check(gm)
    assert problem is not None
    assert problem.startswith("relu: calls <built-in method relu of type object")
    assert problem.endswith("which is no operator overload")


def test_in_place_operators_are_not_core_form() -> None:
    gm = graph_of(lambda g, x: g.call_function(aten.relu_.default, (x,)), 3)
    assert CORE_FORM.check(gm) == "relu__default: aten.relu_.default writes to its input"


def test_missing_tensors_are_not_core_form() -> None:
    root = nn.Module()
    root.register_buffer("scale", torch.ones(3))
    gm = graph_of(
        lambda g, x: g.call_function(aten.mul.Tensor, (x, g.get_attr("scale"))), 3, root=root
    )
    assert CORE_FORM.check(gm) is None
    del gm.scale
    problem = CORE_FORM.check(gm)
    assert problem is not None
    assert problem.startswith("scale: no tensor named 'scale' (")
    gm.scale = 3  # type: ignore[assignment]  # as users do
    assert CORE_FORM.check(gm) == (
        "scale: no tensor named 'scale' (attribute 'scale' is int, not a tensor)"
    )


def test_arithmetic_on_sizes_is_core_form() -> None:
    def build(graph: Graph, x: Node) -> Node:
        size = graph.call_function(aten.sym_size.int, (x, 0))
        return graph.call_function(operator.mul, (size, 2))

    assert CORE_FORM.check(graph_of(build, 3)) is None


# --- the stages of quantization -------------------------------------------------------------------


def stages() -> dict[str, GraphModule]:
    with_observers = observed(MODEL, X)
    calibrated = Pipeline((Calibrate([X]),), frozenset({OBSERVED})).run(with_observers)
    facts = frozenset({OBSERVED, CALIBRATED})
    fake = Pipeline((FakeQuantize(),), facts).run(calibrated)
    return {
        "observed": with_observers,
        "calibrated": calibrated,
        "fake": fake,
        "integer": converted(fake),
    }


def test_each_stage_has_its_facts() -> None:
    made = stages()
    holds = {
        name: [f.name for f in (OBSERVED, CALIBRATED, FAKE_QUANTIZED, INTEGER) if not f.check(gm)]
        for name, gm in made.items()
    }
    assert holds["observed"] == ["observed"]
    assert holds["calibrated"] == ["observed", "calibrated"]
    assert "fake-quantized" in holds["fake"]
    assert "observed" not in holds["fake"]
    assert "integer" in holds["integer"]
    assert "integer" not in holds["fake"]


def test_says_which_value_has_no_observer() -> None:
    gm = graph_of(lambda g, x: g.call_function(aten.relu.default, (x,)), 3)
    for node in nodes_of(gm, aten.relu.default):
        update_info(node, config=LayerConfig())
    assert OBSERVED.check(gm) == "no observer for relu_default"


def test_says_that_observers_are_gone() -> None:
    text = OBSERVED.check(fake_quantized(MODEL, X))
    assert text == "fake_quantize_default already rounds values; observers are gone"


def test_says_which_observer_is_empty_or_unconfigured() -> None:
    gm = observed(MODEL, X)
    assert CALIBRATED.check(gm) == "observer observe_default has seen no data"
    update_info(nodes_of(gm, qpc_ops.observe.default)[0], config=None)
    assert CALIBRATED.check(gm) == "observer observe_default has no configuration"


def test_says_which_observer_is_left() -> None:
    gm = observed(MODEL, X)
    assert FAKE_QUANTIZED.check(gm) == "observer observe_default remains"
    assert INTEGER.check(gm) == "observe_default calls qpc.observe.default"


def test_says_which_value_has_no_grid() -> None:
    gm = fake_quantized(MODEL, X)
    (linear,) = nodes_of(gm, aten.linear.default)
    update_info(linear, qparams=None)
    assert FAKE_QUANTIZED.check(gm) == "no grid for linear"


def test_says_which_fake_quantization_is_left() -> None:
    text = INTEGER.check(fake_quantized(MODEL, X))
    assert text == "fake_quantize_default calls qpc.fake_quantize.default"


@pytest.mark.parametrize("fact", [CORE_FORM, OBSERVED, CALIBRATED, FAKE_QUANTIZED, INTEGER])
def test_an_empty_graph_breaks_no_fact(fact: Fact) -> None:
    graph = Graph()
    graph.output(graph.placeholder("x"))
    assert fact.check(GraphModule(nn.Module(), graph)) is None


@pytest.mark.parametrize(
    ("name", "use"),
    [
        ("a pipeline", lambda m: qpc.quantize(m, [X])),
        ("save_graph", lambda m: qpc.save_graph(m, "nowhere")),
        ("format_graph", qpc.format_graph),
        ("fingerprint", qpc.fingerprint),
        ("set_training", qpc.set_training),
        ("merge_calibration", qpc.merge_calibration),
        ("compare", lambda m: qpc.compare(m, m, X)),
    ],
)
def test_a_model_that_is_not_traced_is_refused_by_name(
    name: str, use: Callable[[Any], object]
) -> None:
    with pytest.raises(PassError, match=f"{name} needs a traced graph, got Sequential") as caught:
        use(MODEL)
    assert caught.value.fix == "gm = qpc.trace(model, example_inputs)"

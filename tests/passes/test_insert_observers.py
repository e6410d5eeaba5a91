from __future__ import annotations

import pytest
import torch
from torch import nn

from qpc.base import PassContext, Remark
from qpc.calls import aten, qpc_ops
from qpc.errors import ConfigError, PassError
from qpc.facts import OBSERVED
from qpc.meta import info
from qpc.passes import InsertObservers
from qpc.pipeline import Pipeline
from qpc.quant.config import Override, QuantConfig
from qpc.quant.observers import MovingAverage
from qpc.testing import check_pass, traced
from tests.quantizing import Parts, converted, fake_quantized, min_max
from tests.small_models import Recurrent, nodes_of, only

IMAGE = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))


def conv() -> nn.Module:
    return nn.Conv2d(3, 3, 1)


def test_observes_the_input_and_every_grid() -> None:
    check_pass(
        InsertObservers(min_max()),
        traced(nn.Sequential(conv(), nn.ReLU(), nn.MaxPool2d(2), nn.Softmax(1)), IMAGE),
        IMAGE,
        before="""
            graph:
              %input_1: f32[N, 3, 4, 4] = input
              %conv2d: f32[N, 3, 4, 4] = aten.conv2d(%input_1, @0.weight, @0.bias)  # 0
              %relu: f32[N, 3, 4, 4] = aten.relu(%conv2d)  # 1
              %max_pool2d: f32[N, 3, 2, 2] = aten.max_pool2d(%relu, [2, 2], [2, 2])  # 2
              %softmax: f32[N, 3, 2, 2] = aten.softmax.int(%max_pool2d, 1)  # 3
              return %softmax
        """,
        after="""
            graph:
              %input_1: f32[N, 3, 4, 4] = input  # observer observers.input_1
              %observe_default: f32[N, 3, 4, 4] = qpc.observe(%input_1, 'observers.input_1')  # observer observers.input_1
              %conv2d: f32[N, 3, 4, 4] = aten.conv2d(%observe_default, @0.weight, @0.bias)  # observer observers.relu; 0
              %relu: f32[N, 3, 4, 4] = aten.relu(%conv2d)  # observer observers.relu; 1
              %observe_default_1: f32[N, 3, 4, 4] = qpc.observe(%relu, 'observers.relu')  # observer observers.relu; 1
              %max_pool2d: f32[N, 3, 2, 2] = aten.max_pool2d(%observe_default_1, [2, 2], [2, 2])  # observer observers.relu; 2
              %softmax: f32[N, 3, 2, 2] = aten.softmax.int(%max_pool2d, 1)  # 3
              return %softmax
        """,  # noqa: E501
        declines=["3 (softmax): softmax has no integer form"],
        exact=True,
    )


def test_nodes_know_whether_they_become_integer_and_how() -> None:
    config = min_max(weight_bits=4)
    result = check_pass(
        InsertObservers(config), traced(nn.Sequential(conv(), nn.ReLU()), IMAGE), IMAGE
    )
    layer, observe = only(result, aten.conv2d.default), nodes_of(result, qpc_ops.observe.default)
    assert info(layer).integer
    assert info(layer).config == config.default
    assert [info(n).config for n in observe] == [config.default, config.default]
    assert not any(info(n).integer for n in observe)
    assert OBSERVED.check(result) is None


def test_observers_start_with_the_state_of_their_kind() -> None:
    layer = min_max().default
    average = layer.model_copy(
        update={"activation": layer.activation.model_copy(update={"observer": MovingAverage()})}
    )
    result = check_pass(
        InsertObservers(QuantConfig(default=average)), traced(nn.Linear(4, 4), IMAGE), IMAGE
    )
    assert result.get_buffer("observers.linear.extents").shape == (0, 2)


def test_reports_how_many_layers_will_be_quantized() -> None:
    ctx = PassContext()
    config = min_max(overrides=(Override(module="1", use="float"),))
    gm = traced(nn.Sequential(conv(), conv(), conv()), IMAGE)
    assert InsertObservers(config).apply(gm, ctx)
    report = ctx.finish(InsertObservers(config), seconds=0.0, changed=True)
    assert report.summary == "2 of 3 convolution and linear layers will be quantized"
    assert [str(r) for r in report.declines] == ["1 (conv2d_1): kept in float by the configuration"]


def test_placeholders_stay_together() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = conv(), conv()

        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = self.a(x) + self.b(y)
            return result

    result = check_pass(InsertObservers(min_max()), traced(Two(), IMAGE, IMAGE), (IMAGE, IMAGE))
    ops = [n.op for n in result.graph.nodes if n.op != "get_attr"]
    assert ops[:3] == ["placeholder", "placeholder", "call_function"]


def test_an_output_is_observed_where_it_leaves() -> None:
    model = Parts(lambda net, x: (y := net.a(x), torch.relu(y)), a=conv())
    result = check_pass(InsertObservers(min_max()), traced(model, IMAGE), IMAGE, exact=True)
    (output,) = (n for n in result.graph.nodes if n.op == "output")
    assert [n.target for n in output.all_input_nodes] == [qpc_ops.observe.default] * 2


def test_a_model_tensor_called_observers_is_not_overwritten() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.observers = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = self.observers(x)
            return result

    result = check_pass(InsertObservers(min_max()), traced(Named(), IMAGE), IMAGE, exact=True)
    assert {"observers.weight", "observers.linear.extent"} <= set(result.state_dict())


def test_a_graph_with_observers_is_left_alone() -> None:
    gm = traced(nn.Linear(4, 4), IMAGE)
    ctx = PassContext()
    InsertObservers(min_max()).apply(gm, ctx)
    assert not InsertObservers(min_max()).apply(gm, ctx)
    report = ctx.finish(InsertObservers(), seconds=0.0, changed=False)
    assert report.summary == "observers are there already"


def test_a_graph_without_a_layer_to_quantize_is_an_error() -> None:
    with pytest.raises(PassError, match="the graph has no layer with weights"):
        InsertObservers().apply(traced(nn.ReLU(), IMAGE), PassContext())


def test_layers_that_stay_in_float_are_counted_and_warned_of_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ctx = PassContext()
    gm = traced(Recurrent(), torch.zeros(2, 5, 8))
    check = Pipeline((InsertObservers(min_max()),)).run(gm, ctx)
    assert ctx.reports[0].summary == "1 of 2 layers with weights will be quantized"
    assert [str(r) for r in ctx.declined] == ["rnn (lstm): lstm has no integer form"]
    text = "1 of 2 layers with weights stays in float (rnn (lstm): lstm has no integer form)"
    assert ctx.reports[0].warnings == (Remark("the model", text),)
    assert [r.message for r in caplog.records if r.name == "qpc.base"] == [f"the model: {text}"]
    assert OBSERVED.check(check) is None


def test_what_the_configuration_keeps_in_float_is_no_warning() -> None:
    ctx = PassContext()
    config = min_max(overrides=(Override(module="1", use="float"),))
    Pipeline((InsertObservers(config),)).run(traced(nn.Sequential(conv(), conv()), IMAGE), ctx)
    assert ctx.reports[0].summary == "1 of 2 convolution and linear layers will be quantized"
    assert ctx.reports[0].warnings == ()


def test_an_override_that_matches_nothing_is_an_error() -> None:
    config = min_max(overrides=(Override(module="features", use="float"),))
    with pytest.raises(PassError) as caught:
        InsertObservers(config).apply(traced(conv(), IMAGE), PassContext())
    assert caught.value.what == (
        "the configuration's override Override(module='features', pattern=None, op=None, "
        "position=None, use='float') matches nothing in this graph"
    )
    assert caught.value.fix == "look at the module paths in print(qpc.format_graph(gm))"


def test_a_quantized_graph_is_refused() -> None:
    fake = fake_quantized(conv(), IMAGE)
    for gm, operator in ((fake, "qpc.fake_quantize.default"), (converted(fake), "qpc.quantize")):
        with pytest.raises(PassError, match=f"is quantized already: it calls {operator}") as caught:
            InsertObservers(min_max()).apply(gm, PassContext())
        assert caught.value.fix == "start again from the float graph that qpc.trace returned"


def test_refuses_a_configuration_of_another_type() -> None:
    with pytest.raises(ConfigError, match="config must be a QuantConfig, got dict"):
        InsertObservers({"default": {}})  # type: ignore[arg-type]  # wrong on purpose


def test_a_batch_norm_that_is_folded_later_has_the_grid_of_what_follows() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
    )
    gm = traced(model, torch.randn(2, 3, 4, 4))
    apart = Pipeline((InsertObservers(),)).run(gm)
    together = Pipeline((InsertObservers(fold_later=True),)).run(gm)
    observers = [{info(n).observer for n in g.graph.nodes} - {None} for g in (apart, together)]
    assert [len(names) for names in observers] == [4, 2]
    assert observers[1] == {"observers.input_1", "observers.relu"}


def test_whether_batch_norms_are_folded_later_is_true_or_false() -> None:
    with pytest.raises(ConfigError, match="fold_later must be True or False"):
        InsertObservers(fold_later=1)  # type: ignore[arg-type]  # the mistake on purpose

"""Labels flow through a graph; parameters get their axes from the layers that read them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.fx import GraphModule, Node
from torch.nn import functional as F

from qpc import registry
from qpc.channels.atoms import Labels, varying_axes
from qpc.channels.flow import Flow, describe, pin_inputs
from qpc.channels.groups import ChannelAnalysis, analyze_channels
from qpc.registry import OpSpec
from qpc.testing import traced

TOKENS = torch.randn(1, 6, 4)


class Net(nn.Module):
    def __init__(self, function: Callable[..., Tensor], **parameters: Tensor) -> None:
        super().__init__()
        self.function = function
        self.a, self.z = nn.Linear(4, 8), nn.Linear(8, 2)
        for name, value in parameters.items():
            setattr(self, name, nn.Parameter(value))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def graph(function: Callable[[Any, Tensor], Tensor], **parameters: Tensor) -> GraphModule:
    return traced(Net(function, **parameters), TOKENS)


def pins(found: ChannelAnalysis, name: str, axis: int = 0) -> list[str | None]:
    group = found.group_of(name, axis)
    assert group is not None
    return sorted({unit.pinned for unit in group.units}, key=str)


def test_an_operator_without_a_rule_pins_what_enters_it() -> None:
    gm = graph(lambda m, x: m.z(torch.cdist(m.a(x), m.a(x)) @ m.a(x)))
    found = analyze_channels(gm)
    assert pins(found, "a.weight") == ["cdist of cdist is not understood"]
    assert [describe(n) for n in found.declined] == ["cdist of cdist"]


def test_packages_add_rules_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    gm = graph(lambda m, x: m.z(torch.special.i0(m.a(x))))

    def same(flow: Flow, node: Node) -> Labels:
        return flow.of(node.all_input_nodes[0])

    target = torch.ops.aten.special_i0.default
    (node,) = (n for n in gm.graph.nodes if "i0" in n.name)
    assert isinstance(node.target, OpOverload)
    assert pins(analyze_channels(gm), "a.weight") != [None]
    monkeypatch.setattr(registry, "_SPECS", dict(registry._SPECS))
    registry.register_operator(OpSpec(node.target, channels=same))
    assert varying_axes(Flow(gm).of(node)) == [2]
    assert pins(analyze_channels(gm), "a.weight") == [None]
    assert node.target in (target, torch.ops.aten.i0.default)


def test_a_position_embedding_gets_its_channels_from_what_it_is_added_to() -> None:
    found = analyze_channels(graph(lambda m, x: m.z(m.a(x) + m.p), p=torch.randn(1, 6, 8)))
    assert found.group_of("p", 2) is found.group_of("a.weight")
    assert found.group_of("p", 1) is None


def test_an_embedding_that_is_computed_with_first_waits_for_its_axis() -> None:
    found = analyze_channels(
        graph(
            lambda m, x: m.z(m.a(x) + (m.p * m.q).relu()), p=torch.randn(6, 8), q=torch.ones(6, 8)
        )
    )
    assert found.free == {"p", "q"}
    assert found.group_of("p", 1) is found.group_of("a.weight")
    assert found.group_of("q", 1) is found.group_of("a.weight")


def test_a_weight_that_was_a_value_before_stays() -> None:
    gm = graph(
        lambda m, x: m.z(m.a(x)) + F.linear(m.a(x) + m.w, m.w).sum(2, keepdim=True),
        w=torch.randn(6, 8),
    )
    assert pins(analyze_channels(gm), "w", 0) == ["w is used as a weight and as a value"]


def test_a_weight_is_a_value_with_the_channels_of_both_axes() -> None:
    gm = graph(lambda m, x: m.z(F.linear(m.a(x), m.w)) + (m.w * m.w.t()).sum(), w=torch.eye(8))
    found = analyze_channels(gm)
    assert found.group_of("w", 0) is found.group_of("w", 1)
    assert pins(found, "w", 1) == [None]


def test_a_layer_called_twice_has_one_set_of_channels() -> None:
    model = nn.Linear(4, 4)
    found = analyze_channels(traced(nn.Sequential(model, nn.ReLU(), model), TOKENS))
    assert pins(found, "2.weight") == [
        "2.weight is shared by linear of 0 (linear) and linear of 2 (linear_1), one of which keeps "
        "all its channels; to prune these channels, give each a weight of its own"
    ]
    assert {axis.name for axis in found.axes} == {"2.weight", "2.bias"}


def test_rows_of_a_parameter_are_a_layer() -> None:
    found = analyze_channels(
        graph(
            lambda m, x: m.z(F.linear(m.a(x), m.w[:3]) @ F.linear(m.a(x), m.w[3:]).mT @ m.a(x)),
            w=torch.randn(6, 8),
        )
    )
    group = found.group_of("w")
    assert group is not None
    assert len(group.prunable) == 3, "rows 0 and 3, 1 and 4, 2 and 5 are multiplied"


def test_buffers_of_integers_are_no_channels() -> None:
    gm = graph(lambda m, x: m.z(m.a(x) * torch.arange(8)))
    assert pins(analyze_channels(gm), "a.weight") == [
        "mul of mul meets a tensor whose size is fixed, 8 on axis 2"
    ]


def test_labels_that_change_elsewhere_are_pinned_by_an_operator_along_another_axis() -> None:
    gm = graph(lambda m, x: m.z(m.a(x)))
    flow = Flow(gm)
    (linear, *_) = (n for n in gm.graph.nodes if n.op == "call_function")
    assert flow.line(linear, linear, 1).tolist() == [-1] * 6
    assert (
        list(flow.atoms.pins().values())
        == ["linear of a (linear) needs channels on another axis"] * 8
    )


@pytest.mark.parametrize("why", [None, "because"])
def test_inputs_are_pinned_with_a_reason(why: str | None) -> None:
    gm = graph(lambda m, x: m.z(m.a(x).relu()))
    flow = Flow(gm)
    (relu,) = (n for n in gm.graph.nodes if "relu" in n.name)
    assert bool((pin_inputs(flow, relu, why) == -1).all())
    expected = why or "relu of relu is not understood"
    assert set(flow.atoms.pins().values()) == {expected}
    assert flow.declined == {relu: expected}


def test_computed_weights_are_not_labelled_element_by_element() -> None:
    gm = graph(lambda m, x: m.z(F.linear(m.a(x), m.w - m.w.mean(1, keepdim=True))), w=torch.eye(8))
    found = analyze_channels(gm)
    assert found.free == set()
    assert len(found.atoms) == 8 + 2
    assert pins(found, "a.weight") == ["linear of linear_1 computes its weight"]


def test_a_layer_whose_weight_is_computed_with_elsewhere_stays() -> None:
    gm = graph(lambda m, x: m.z(m.a(x)) + F.linear(x, m.a.weight.relu()).sum(2, keepdim=True))
    reason = "linear of linear_2 computes its weight"
    assert pins(analyze_channels(gm), "a.weight") == [reason]


def test_channels_with_others_in_between_stay_and_the_search_for_ties_ends() -> None:
    def skewed(m: Any, x: Tensor) -> Tensor:
        y = m.a(x)  # [N, 6, 8]
        wide = torch.cat([y, x[..., :1]], 2)
        return F.linear(wide.flatten(1).reshape(-1, 9, 6), m.last)

    found = analyze_channels(graph(skewed, last=torch.randn(2, 6)))
    assert "other values stand between its channels" in pins(found, "a.weight")

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from qpc.pruning.weight_layers import LayerWeight, Scope, float_layers
from qpc.testing import traced
from tests.quantizing import Parts, fake_quantized
from tests.small_models import Call

IMAGE = torch.randn(1, 4, 5, 5)


def found(gm: torch.fx.GraphModule, scope: Scope | None = None) -> list[str]:
    layers = float_layers(gm, scope or Scope())
    return [layer if isinstance(layer, str) else layer.name for _, layer in layers]


def test_finds_the_weights_of_convolutions_and_linear_layers_in_order() -> None:
    model = nn.Sequential(nn.Conv2d(4, 3, 3), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(27, 2))
    assert found(traced(model, IMAGE)) == ["0.weight", "3.weight"]


def test_finds_weights_that_are_rounded_on_their_way() -> None:
    assert found(fake_quantized(nn.Sequential(nn.Conv2d(4, 3, 3)), IMAGE)) == ["0.weight"]


def test_a_shared_weight_comes_once() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    model[2].weight = model[0].weight
    assert len(found(traced(model, torch.randn(2, 4)))) == 1


def test_says_why_a_weight_cannot_be_changed() -> None:
    scaled = Parts(lambda m, x: nn.functional.linear(x, m.a.weight * 2), a=nn.Linear(4, 3))
    assert found(traced(scaled, torch.randn(2, 4))) == [
        "its weight mul is computed, not a parameter; "
        "run qpc.passes.FoldWeights() first to make it one"
    ]
    flat = Call(nn.functional.linear, weight=torch.randn(4))
    assert found(traced(flat, torch.randn(2, 4))) == ["its weight 'weight' has no input channels"]


@pytest.mark.parametrize(
    ("scope", "names"),
    [
        (Scope(module="a"), ["a.0.weight", "a.1.weight"]),
        (Scope(module="a.1"), ["a.1.weight"]),
        (Scope(pattern="*.1"), ["a.1.weight"]),
        (Scope(op="linear"), ["b.weight"]),
        (Scope(module="a", op="linear"), []),
    ],
)
def test_a_scope_selects_by_module_pattern_and_operator(scope: Scope, names: list[str]) -> None:
    model = Parts(
        lambda m, x: m.b(m.a(x)),
        a=nn.Sequential(nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)),
        b=nn.Linear(5, 2),
    )
    assert found(traced(model, IMAGE), scope) == names


@pytest.mark.parametrize("groups", [1, 2])
def test_transposed_convolutions_are_seen_with_outputs_first(groups: int) -> None:
    layer = nn.ConvTranspose2d(4, 6, 1, groups=groups, bias=False)
    weight: Tensor = layer.weight.detach()
    view = LayerWeight(next(iter(traced(layer, IMAGE).graph.nodes)), "weight", 1, groups)
    ordinary = nn.functional.conv2d(IMAGE, view.outputs_first(weight), groups=groups)
    assert torch.allclose(layer(IMAGE), ordinary, atol=1e-6)
    assert torch.equal(view.own_layout(view.outputs_first(weight)), weight)

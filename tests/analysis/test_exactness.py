from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

import qpc
from qpc.analysis.exactness import Exactness, exactness
from qpc.calls import aten
from qpc.quant.config import Override, QuantConfig
from tests.generators import IntegerGraph, random_graph
from tests.quantizing import Parts
from tests.small_models import Call

IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def quantized(model: nn.Module, **config: str) -> GraphModule:
    overrides = tuple(Override(op=op, use="float") for op in config.values())
    gm = qpc.trace(model.eval(), IMAGE)
    return qpc.quantize(gm, [IMAGE], QuantConfig(overrides=overrides))


def test_a_graph_of_integers_is_exact_from_end_to_end() -> None:
    gm = quantized(nn.Sequential(nn.Conv2d(3, 4, 3), nn.SiLU(), nn.Flatten(), nn.Linear(144, 5)))
    (found,) = exactness(gm)
    assert found.exact
    assert str(found).endswith("exact, the same bits on every target")


def test_a_float_operator_before_an_output_is_named() -> None:
    gm = quantized(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Softmax(1)))
    (found,) = exactness(gm)
    assert found.rounded == ("1 (softmax)",)
    assert str(found) == "1 (softmax): rounded by float operators before it: 1 (softmax)"


def test_integers_behind_float_operators_depend_on_them() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Softmax(1), nn.Softmax(2), nn.Conv2d(4, 2, 1))
    (found,) = exactness(quantized(model))
    assert found.rounded == ("1 (softmax)", "2 (softmax_1)")


def test_every_output_is_judged_by_itself_and_told_once() -> None:
    def several(net: Parts, x: Tensor) -> tuple[Tensor, ...]:
        y = net.get_submodule("a")(x)
        return y, torch.softmax(y, 1), y

    gm = quantized(Parts(several, a=nn.Conv2d(3, 4, 3)))
    first, second = exactness(gm)
    assert (first.exact, second.exact) == (True, False)


@pytest.mark.parametrize(
    "choose",
    [
        lambda x: x.relu(),
        lambda x: x.clamp(-0.5, 1).amax(1),
        lambda x: x.abs().flatten(1)[:, 3:].argmax(1),
        lambda x: torch.where(x > 0, x, -x),
    ],
)
def test_operators_that_choose_or_move_round_nothing(choose: Callable[[Tensor], Tensor]) -> None:
    (found,) = exactness(qpc.trace(Call(choose), IMAGE))
    assert found.exact


def test_an_operator_that_nobody_knows_is_taken_to_round() -> None:
    (found,) = exactness(qpc.trace(Call(lambda x: x.erf().relu()), IMAGE))
    assert found.rounded == ("erf",)


def test_what_is_computed_from_parameters_alone_is_computed_once() -> None:
    g = IntegerGraph()
    constant = g.call(aten.exp.default, g.constant(torch.ones(3)))
    (found,) = exactness(g.module(g.call(aten.maximum.default, g.input(3), constant)))
    assert found.exact


def test_long_lists_are_cut() -> None:
    text = str(Exactness("y", tuple("abcdef")))
    assert text == "y: rounded by float operators before it: a, b, c, d and 2 more"


@pytest.mark.parametrize("seed", range(5))
def test_random_integer_graphs_are_exact_but_for_their_islands(seed: int) -> None:
    for found in exactness(random_graph(seed)):
        assert all("relu" not in name for name in found.rounded)

"""Where values come from, as reports say it."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qpc.analysis.origins import (
    computed,
    maker,
    multiplies_by_parameter,
    of_parameters,
    reported_calls,
)
from qpc.testing import traced
from tests.small_models import Call, Recurrent

X = torch.zeros(2, 8)
STEPS = torch.zeros(2, 5, 8)


class Four(nn.Module):
    """Linear layers by a given weight, by one computed from it, by a piece, and by a double."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.ones(8, 8))

    def forward(self, x: Tensor, given: Tensor) -> Tensor:
        weights = (given, given * 2, self.w[:4], self.w[:4] * 2)
        return torch.cat([nn.functional.linear(x, weight) for weight in weights])


def test_what_is_computed_says_from_what_and_what_helps() -> None:
    gm = traced(Four(), X, torch.ones(4, 8))
    weights = [n.args[1] for n in gm.graph.nodes if "linear" in n.name]
    assert [computed(w) for w in weights] == [
        "given is an input of the model",
        "mul is computed from the input given",
        "slice_tensor is a piece of w, not a parameter of its own",
        "mul_1 is computed, not a parameter; run qpc.passes.FoldWeights() first to make it one",
    ]


def test_what_is_made_of_parameters_alone_is_told_from_the_rest() -> None:
    gm = traced(Four(), X, torch.ones(4, 8))
    made = [n.name for n in gm.graph.nodes if n.op == "call_function" and of_parameters(n)]
    assert made == ["slice_tensor", "slice_tensor_1", "mul_1"]


def test_a_picked_result_is_its_makers() -> None:
    gm = traced(Recurrent(), STEPS)
    picked = next(n for n in gm.graph.nodes if n.name == "getitem")
    assert maker(picked).name == "lstm"
    assert maker(maker(picked)).name == "lstm"


def test_a_product_with_a_matrix_is_told_from_those_of_values_and_of_a_vector() -> None:
    def forward(x: Tensor, w: Tensor, v: Tensor) -> Tensor:
        return (x @ w) @ x.T + x @ v

    gm = traced(Call(forward, w=torch.ones(8, 8), v=torch.ones(8)), X)
    found = {n.name: multiplies_by_parameter(n) for n in gm.graph.nodes if "matmul" in n.name}
    assert found == {"matmul": True, "matmul_1": False, "matmul_2": False}


def test_sizes_constants_and_picking_are_not_reported_but_what_has_several_results_is() -> None:
    names = {n.name for n in reported_calls(traced(Recurrent(), STEPS))}
    assert names == {"x", "lstm", "linear"}

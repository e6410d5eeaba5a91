from __future__ import annotations

import copy
import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import qpc
from qpc.calls import aten
from qpc.channels.cost import CostModel, LayerCost, cost
from qpc.channels.groups import analyze_channels
from qpc.channels.masks import spared_units
from qpc.channels.removal import Removal
from qpc.recipes import quantize
from qpc.testing import traced
from tests.small_models import Call, graph_of

IMAGE = torch.randn(2, 4, 8, 8)


def layers(model: nn.Module, *inputs: Tensor) -> list[LayerCost]:
    return list(cost(traced(model, *inputs)).layers)


def only(model: nn.Module, *inputs: Tensor) -> LayerCost:
    (found,) = layers(model, *inputs)
    return found


@pytest.mark.parametrize(
    ("model", "shape", "expected"),
    [
        (nn.Conv1d(4, 6, 3), (4, 9), (6, 6 * 4 * 3 + 6, 7 * 6 * 4 * 3)),
        (nn.Conv2d(4, 6, 3, stride=2, padding=1), (4, 8, 8), (6, 222, 16 * 6 * 4 * 9)),
        (nn.Conv2d(4, 6, 3, groups=2, bias=False), (4, 8, 8), (6, 108, 36 * 6 * 2 * 9)),
        (nn.Conv2d(4, 4, 3, groups=4), (4, 8, 8), (4, 40, 36 * 4 * 9)),
        (nn.Conv3d(2, 3, 2), (2, 4, 4, 4), (3, 3 * 2 * 8 + 3, 27 * 3 * 2 * 8)),
        (nn.ConvTranspose1d(4, 6, 3), (4, 9), (6, 78, 9 * 4 * 6 * 3)),
        (nn.ConvTranspose2d(4, 6, 2, stride=2), (4, 8, 8), (6, 102, 64 * 4 * 6 * 4)),
        (nn.ConvTranspose2d(4, 6, 2, groups=2), (4, 8, 8), (6, 54, 64 * 4 * 3 * 4)),
        (nn.Linear(5, 7), (5,), (7, 42, 35)),
        (nn.Linear(5, 7), (3, 5), (7, 42, 3 * 35)),
    ],
)
def test_a_layer_costs_what_its_sizes_say(
    model: nn.Module, shape: tuple[int, ...], expected: tuple[int, int, int]
) -> None:
    found = only(nn.Sequential(model), torch.randn(2, *shape))
    assert (found.layer, found.channels, found.parameters, found.macs) == ("0", *expected)


def test_norms_have_parameters_and_multiply_nothing_that_counts() -> None:
    assert layers(nn.Sequential(nn.BatchNorm2d(4)), IMAGE) == [
        LayerCost("0", "batch_norm", 0, 8, 0)
    ]


@pytest.mark.parametrize(
    ("function", "shape", "macs"),
    [
        (lambda a: a @ a.transpose(-1, -2), (3, 5, 7), 3 * 5 * 7 * 5),
        (lambda a: torch.einsum("bij,bkj->bik", a, a), (5, 7), 5 * 7 * 5),
        (lambda a: torch.einsum("...ij,...kj->...ik", a, a), (3, 5, 7), 3 * 5 * 7 * 5),
    ],
)
def test_products_of_values_count_what_they_sum_over(
    function: Callable[[Tensor], Tensor], shape: tuple[int, ...], macs: int
) -> None:
    found = only(Call(function), torch.randn(2, *shape))
    assert (found.channels, found.parameters, found.macs) == (0, 0, macs)


def test_an_einsum_without_a_result_sums_over_letters_that_come_twice() -> None:
    gm = graph_of(lambda g, x: g.call_function(aten.einsum.default, ("bij,bkj", [x, x])), 5, 7)
    assert cost(gm).macs == 5 * 5 * 7


class Transposed(nn.Module):
    """A layer written as a product with a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.weight = nn.Linear(3, 4), nn.Parameter(torch.randn(6, 4))
        self.last = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(self.first(x) @ self.weight.transpose(0, 1))
        return y


def test_a_product_with_a_parameter_is_seen_through_a_permutation() -> None:
    gm = traced(Transposed(), torch.randn(2, 3))
    row = cost(gm).layers[1]
    assert (row.layer, row.parameters, row.macs) == ("weight", 24, 24)
    analysis = analyze_channels(gm)
    first = analysis.groups[0].prunable[:2]
    after = CostModel(gm, analysis).after(unit.atom for unit in first)
    assert [row.macs for row in after.layers] == [2 * 3, 6 * 2, 2 * 6]


def test_attention_multiplies_queries_with_keys_and_weights_with_values() -> None:
    q, k, v = (torch.randn(2, 4, n, 8) for n in (5, 9, 9))
    found = only(Call(F.scaled_dot_product_attention), q, k, v)
    assert found.macs == 2 * 4 * 5 * 9 * 8


def test_a_shared_parameter_counts_once_in_the_total() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(5, 5)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.layer(self.layer(x))
            return y

    found = cost(traced(Twice(), torch.randn(2, 5)))
    assert [row.parameters for row in found.layers] == [30, 30]
    assert (found.channels, found.parameters, found.macs) == (5, 30, 50)


def test_rounded_and_integer_weights_cost_the_same_as_float_ones() -> None:
    model = nn.Sequential(nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(216, 3))
    gm = traced(model, IMAGE)
    integer = quantize(gm, [IMAGE])
    assert [(r.channels, r.parameters, r.macs) for r in cost(integer).layers if r.macs] == [
        (r.channels, r.parameters, r.macs) for r in cost(gm).layers
    ]
    assert cost(integer).parameters == cost(gm).parameters


def test_the_totals_have_names_and_print_as_a_table() -> None:
    found = cost(traced(nn.Sequential(nn.Linear(5, 7)), torch.randn(2, 5)))
    assert [found.of("channels"), found.of("parameters"), found.of("macs")] == [7, 42, 35]
    assert [line.split() for line in str(found).splitlines()] == [
        ["layer", "operator", "channels", "parameters", "MACs"],
        ["0", "linear", "7", "42", "35"],
        ["total", "7", "42", "35"],
    ]


# --- after pruning --------------------------------------------------------------------------------


class Mixed(nn.Module):
    """Depthwise, grouped, concat, chunk, residual, flatten, attention-like product and a token."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.depth = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, groups=8)
        self.norm, self.grouped = nn.BatchNorm2d(8), nn.Conv2d(8, 12, 1, groups=4)
        self.up, self.out = nn.ConvTranspose2d(20, 6, 2), nn.Linear(6 * 49, 16)
        self.token, self.head = nn.Parameter(torch.randn(1, 1, 16)), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.depth(self.stem(x)))
        x = torch.cat([self.grouped(x), x], 1)
        x = torch.relu(self.up(x)).flatten(1)
        x = self.out(x).unsqueeze(1) + self.token
        y: Tensor = self.head((x @ x.transpose(1, 2)) @ x)
        return y


@pytest.mark.every(4)
@pytest.mark.parametrize("seed", range(4))
def test_the_cost_after_pruning_is_known_without_pruning(seed: int) -> None:
    gm = traced(Mixed(), torch.randn(2, 3, 8, 8))
    analysis = analyze_channels(gm)
    units = [unit.atom for group in analysis.groups for unit in group.prunable]
    removed = set(random.Random(seed).sample(units, len(units) // 2))
    removed -= set(spared_units(analysis, removed))
    model = CostModel(gm, analysis)
    predicted = model.after(removed)
    assert model.after() == cost(gm)
    pruned = copy.deepcopy(gm)
    Removal(pruned, analyze_channels(pruned), frozenset(removed)).run()
    assert cost(pruned) == predicted != model.after()
    for measure in ("channels", "parameters", "macs"):
        assert model.total(measure, removed) == predicted.of(measure)


@pytest.mark.thorough
def test_a_resnet18_has_the_published_number_of_macs() -> None:
    sizes = [(64, 64, 1), (64, 64, 1), (64, 128, 2), (128, 128, 1)]
    sizes += [(128, 256, 2), (256, 256, 1), (256, 512, 2), (512, 512, 1)]
    model = nn.Sequential(
        nn.Conv2d(3, 64, 7, 2, 3, bias=False),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
        *(Residual(*size) for size in sizes),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(512, 1000),
    )
    found = cost(qpc.trace(model, torch.randn(1, 3, 224, 224), check=False))
    assert found.macs == 1_814_073_344  # 1.81 GMAC and 11.69 million parameters in the literature
    assert found.parameters == 11_689_512


class Residual(nn.Module):
    def __init__(self, ins: int, outs: int, stride: int) -> None:
        super().__init__()
        self.a = nn.Sequential(
            nn.Conv2d(ins, outs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outs),
            nn.ReLU(),
            nn.Conv2d(outs, outs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outs),
        )
        short = [nn.Conv2d(ins, outs, 1, stride, bias=False), nn.BatchNorm2d(outs)]
        self.b = nn.Sequential(*short) if ins != outs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.a(x) + self.b(x))

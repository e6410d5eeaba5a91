"""Channels are scaled where everything between their makers and readers commutes with a factor."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.fx import GraphModule

import qpc
from qpc.channels.scaling import apply_scales, column_ranges, require_float, row_ranges
from qpc.channels.scaling_walk import scaling_of
from qpc.errors import PassError
from qpc.meta import copied
from qpc.testing import assert_same_output, randomized, traced
from tests.quantizing import fake_quantized
from tests.small_models import Call

X = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))


class Everything(nn.Module):
    """What scales are seen through: a residual stream, depthwise, grouped, transposed, PReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(4, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, groups=8, padding=1)
        self.branch = nn.Conv2d(8, 8, 1, groups=2)
        self.up = nn.ConvTranspose2d(8, 4, 2, groups=2)
        self.slope = nn.PReLU(8)
        self.gate = nn.Linear(8, 8)
        self.head = nn.Linear(8 * 4 * 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        y = nn.functional.leaky_relu(self.depthwise(x))
        x = nn.functional.max_pool2d(y + self.branch(y), 2)
        gate = torch.sigmoid(self.gate(x.mean((2, 3))))
        x = x * gate[:, :, None, None]
        x = torch.cat([x[:, 4:], self.up(x)[:, :, :-1, :-1]], 1)
        result: Tensor = self.head(self.slope(x).flatten(1))
        return result


def scaled(gm: GraphModule, seed: int) -> tuple[GraphModule, Tensor]:
    """The graph with random factors for all units that are not fixed."""
    scaling = scaling_of(gm)
    generator = torch.Generator().manual_seed(seed)
    factors = 2.0 ** torch.randint(-4, 5, (scaling.units,), generator=generator).double()
    factors = torch.where(scaling.fixed(), 1.0, factors)
    result = copied(gm)
    apply_scales(result, scaling_of(result), factors)
    return result, factors


@pytest.mark.thorough
@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 1000))
def test_any_factors_leave_the_output_as_it_is(seed: int) -> None:
    gm = traced(randomized(Everything()), X)
    result, _ = scaled(gm, seed)
    assert_same_output(gm, result, X, rtol=1e-4, atol=1e-4)  # sums of hundreds, around 100
    assert qpc.fingerprint(result) != qpc.fingerprint(gm)


def test_a_residual_stream_has_the_same_factors() -> None:
    scaling = scaling_of(traced(Everything(), X))
    made = {rows.weight: rows.channels for rows in scaling.made}
    assert torch.equal(made["depthwise.weight"], made["branch.weight"])
    assert not set(made["stem.weight"].tolist()) & set(made["depthwise.weight"].tolist())


def test_only_what_is_returned_or_gates_is_fixed() -> None:
    scaling = scaling_of(traced(Everything(), X))
    found = {node.name: why for node, why in scaling.declined().items()}
    assert found == {
        "linear": "sigmoid: sigmoid does not commute with scales",
        "linear_1": "the model returns it",
    }


@pytest.mark.parametrize(
    ("between", "why"),
    [
        (torch.sigmoid, "sigmoid does not commute with scales"),
        (lambda x: x + 1.0, "it adds a constant"),
        (lambda x: x.mean(1, keepdim=True).expand(-1, 3, -1, -1), "mean works across"),
        (lambda x: x * x, "mul does not commute with scales"),
        (lambda x: nn.functional.pad(x, (1, 1, 1, 1), value=2.0), "it pads with a number other"),
        (lambda x: x.clamp(1.0, 2.0), "it clamps to a range without 0"),
    ],
)
def test_what_does_not_commute_fixes_its_channels(between: object, why: str) -> None:
    assert callable(between)
    model = nn.Sequential(nn.Conv2d(4, 3, 1), Call(between), nn.Conv2d(3, 2, 1))
    declined = scaling_of(traced(model, X)).declined()
    first = next(text for node, text in declined.items() if node.name == "conv2d")
    assert why in first


def test_shared_weights_fix_their_channels() -> None:
    layer = nn.Conv2d(4, 4, 1)
    declined = scaling_of(traced(nn.Sequential(layer, nn.ReLU(), layer), X)).declined()
    assert len(declined) == 2
    assert all("is shared" in why or "returns" in why for why in declined.values())


def test_norms_with_parameters_make_channels() -> None:
    model = randomized(nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 4)))
    x = torch.randn(2, 8)
    gm = traced(model, x)
    result, factors = scaled(gm, 0)
    assert_same_output(gm, result, x)
    assert bool((factors != 1.0).any())


def test_ranges_of_rows_and_columns() -> None:
    gm = traced(nn.Sequential(nn.Conv2d(4, 6, 3, groups=2), nn.ConvTranspose2d(6, 4, 2)), X)
    scaling = scaling_of(gm)
    weights = [gm.get_parameter(f"{i}.weight").detach().abs() for i in (0, 1)]
    expected = weights[0].reshape(2, 3, 2, 9).permute(0, 2, 1, 3).flatten(2).amax(2).flatten()
    torch.testing.assert_close(column_ranges(gm, scaling.read[0]).float(), expected)
    torch.testing.assert_close(
        column_ranges(gm, scaling.read[1]).float(), weights[1].amax((1, 2, 3))
    )
    torch.testing.assert_close(row_ranges(gm, scaling.made[0]).float(), weights[0].amax((1, 2, 3)))
    torch.testing.assert_close(row_ranges(gm, scaling.made[1]).float(), weights[1].amax((0, 2, 3)))


def test_refuses_graphs_that_are_rounded() -> None:
    with pytest.raises(PassError, match="a test needs a graph in float, and this one calls qpc"):
        require_float(fake_quantized(nn.Conv2d(4, 2, 1), X), "a test")

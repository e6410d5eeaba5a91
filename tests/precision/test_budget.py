from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from qpc.analysis.quantization import plan_quantization
from qpc.channels.cost import cost
from qpc.errors import ConfigError
from qpc.precision.budget import BitBudget, Costs, costs_of
from qpc.precision.parts import Part, parts_of
from qpc.quant.config import Override, QuantConfig
from qpc.testing import traced
from tests.precision.nets import Shared, chain, residual


def costs_and_parts(gm: torch.fx.GraphModule, config: QuantConfig | None = None) -> Costs:
    plan = plan_quantization(gm, config or QuantConfig())
    return costs_of(gm, plan, parts_of(gm, plan))


def at(costs: Costs, weights: int, activations: int) -> dict[Part, int]:
    return {p: weights if p.kind == "weights" else activations for p in costs.parts}


def test_bytes_are_those_of_packed_weights() -> None:
    costs = costs_and_parts(chain(3, 5, 2)[0])
    assert costs.weight_bytes(at(costs, 8, 8)) == 15 + 10
    assert costs.weight_bytes(at(costs, 3, 8)) == 6 + 4  # 45 and 30 bits


def test_shared_weights_count_once() -> None:
    costs = costs_and_parts(traced(Shared(), torch.randn(1, 4, 2, 2)))
    assert costs.weight_bytes(at(costs, 8, 8)) == 16 + 16


def test_bit_operations_are_products_of_both_bits() -> None:
    gm, _ = residual()
    costs = costs_and_parts(gm)
    assert costs.bit_operations(at(costs, 4, 8)) == cost(gm).macs * 4 * 8


def test_layers_in_float_have_32_bits() -> None:
    gm, _ = chain(3, 5, 2)
    costs = costs_and_parts(gm, QuantConfig(overrides=(Override(module="1", use="float"),)))
    assert costs.weight_bytes(at(costs, 8, 8)) == 15 + 4 * 10
    assert costs.bit_operations(at(costs, 8, 8)) == 15 * 64 + 10 * 32 * 32


def test_products_of_two_values_have_the_bits_of_both() -> None:
    class Net(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x @ y

    gm = traced(Net(), torch.randn(2, 3, 4), torch.randn(2, 4, 5))
    costs = costs_and_parts(gm)
    expected = 32 * 32 if not costs.parts else 6 * 6
    assert costs.bit_operations(at(costs, 8, 6)) == 3 * 4 * 5 * expected


def test_shares_are_of_8_bits_everywhere() -> None:
    costs = costs_and_parts(chain(4, 4, 4)[0])
    assert costs.limits(BitBudget(weight_bytes="50%")) == (16.0, math.inf)
    assert costs.limits(BitBudget(bit_operations="25%")) == (math.inf, 32 * 64 / 4)
    assert costs.limits(BitBudget(weight_bytes=7, bit_operations=9)) == (7.0, 9.0)


@pytest.mark.parametrize("value", ["half", "x%", "-5%", 0, -1, math.nan, True, [1]])
def test_amounts_that_make_no_sense_are_refused(value: object) -> None:
    with pytest.raises(ConfigError, match="weight_bytes must be a number above 0 or a share"):
        BitBudget(weight_bytes=value)  # type: ignore[arg-type]  # on purpose
    with pytest.raises(ConfigError, match="a budget needs weight_bytes or bit_operations"):
        BitBudget()

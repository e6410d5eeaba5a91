from __future__ import annotations

import math

import pytest

import qpc
from qpc.errors import ConfigError
from qpc.layers import integer_layer
from qpc.meta import info
from tests.precision.nets import chain, residual


@pytest.mark.thorough
def test_the_budget_is_kept_and_the_config_quantizes_to_it() -> None:
    gm, batches = residual()
    found = qpc.mixed_precision(gm, batches, budget=qpc.BitBudget(weight_bytes="60%"))
    assert found.weight_bytes <= found.weight_bytes_limit < math.inf
    assert found.bit_operations_limit == math.inf
    bits = {a.name: a.bits for a in found.assignments if a.kind == "weights"}
    assert len(set(bits.values())) > 1
    integers = qpc.quantize(gm, batches, found.config)
    layers = [n for n in integers.graph.nodes if integer_layer(n)]
    seen = {info(n).module_path: config.weight.bits for n in layers if (config := info(n).config)}
    assert seen == bits


def test_the_account_adds_up() -> None:
    gm, batches = residual()
    budget = qpc.BitBudget(bit_operations="50%")
    found = qpc.mixed_precision(gm, batches, budget=budget)
    noise = sum(a.noise for a in found.assignments)
    assert found.predicted_db == pytest.approx(-10 * math.log10(noise))
    rounded = qpc.recipes.post_training_quantization(batches, found.config).run(gm)
    output = qpc.compare(gm, rounded, batches).outputs[0]
    assert found.measured_db == pytest.approx(output.sqnr_db)
    text = str(found)
    assert f"bit operations: {found.bit_operations:,} of {found.bit_operations_limit:,.0f}" in text
    assert f"SQNR predicted: {found.predicted_db:.1f} dB, measured: {found.measured_db:.1f}" in text


def test_a_sensitivity_that_is_known_must_be_of_this_graph_and_these_bits() -> None:
    gm, batches = chain(4, 4, 2)
    budget = qpc.BitBudget(weight_bytes="60%")
    known = qpc.sensitivity(gm, batches, bits=(8, 4), fewer_channels=())
    found = qpc.mixed_precision(gm, batches, budget=budget, known=known, bits=(8, 4))
    assert found == qpc.mixed_precision(gm, batches, budget=budget, bits=(8, 4))
    with pytest.raises(ConfigError, match="says nothing of the weights of 0 at 2 bits"):
        qpc.mixed_precision(gm, batches, budget=budget, known=known, bits=(8, 2))
    other, inputs = chain(4, 3, 2)
    with pytest.raises(ConfigError, match="is that of another graph"):
        qpc.mixed_precision(other, inputs, budget=budget, known=known)


def test_a_budget_that_cannot_be_met_names_the_least() -> None:
    gm, batches = chain(4, 4, 2)
    message = "a budget of 3 bytes of weights cannot be met: the fewest are 12"
    with pytest.raises(ConfigError, match=message):
        qpc.mixed_precision(gm, batches, budget=qpc.BitBudget(weight_bytes=3))
    with pytest.raises(ConfigError, match="budget must be a BitBudget, got int"):
        qpc.mixed_precision(gm, batches, budget=3)  # type: ignore[arg-type]  # on purpose

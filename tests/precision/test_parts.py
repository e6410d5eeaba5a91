from __future__ import annotations

import torch
from torch import nn

from qpc.analysis.quantization import plan_quantization
from qpc.facts import CORE_FORM
from qpc.meta import info
from qpc.passes import Calibrate, FakeQuantize, FoldBatchNorm, InsertObservers
from qpc.pipeline import Pipeline
from qpc.precision.parts import Part, configuration, parts_of
from qpc.quant.config import Override, QuantConfig
from qpc.testing import traced
from tests.precision.nets import Shared, residual


def named(parts: tuple[Part, ...], kind: str) -> dict[str, int]:
    return {part.name: part.weights for part in parts if part.kind == kind}


def test_layers_and_grids_are_parts_by_the_names_of_their_modules() -> None:
    gm, _ = residual()
    tidy = Pipeline((FoldBatchNorm(),)).run(gm)
    parts = parts_of(tidy, plan_quantization(tidy, QuantConfig()))
    assert named(parts, "weights") == {"a": 216, "b": 576, "fc": 32}
    # What b gives is added before it is rounded, so that it has no grid.
    assert list(named(parts, "activations")) == ["input", "a", "add", "mean"]


def test_what_a_configuration_cannot_tell_apart_is_one_part() -> None:
    gm = traced(Shared(), torch.randn(1, 4, 2, 2))
    parts = parts_of(gm, plan_quantization(gm, QuantConfig()))
    assert named(parts, "weights") == {"a": 16, "b": 16}
    first, second = parts[:2]
    assert len(first.nodes) == len(second.nodes) == 2
    assert [site.module for site in second.sites] == ["b", "c"]


def test_a_layer_that_stays_in_float_is_no_part() -> None:
    gm, _ = residual()
    config = QuantConfig(overrides=(Override(module="fc", use="float"),))
    parts = parts_of(gm, plan_quantization(gm, config))
    assert list(named(parts, "weights")) == ["a", "b"]


def test_a_configuration_gives_every_part_its_bits_and_nothing_else() -> None:
    gm, batches = residual()
    base = QuantConfig(overrides=(Override(module="fc", use="float"),))
    tidy = Pipeline((FoldBatchNorm(),)).run(gm)
    plan = plan_quantization(tidy, base)
    parts = parts_of(tidy, plan)
    bits = {part: 2 + place % 7 for place, part in enumerate(parts)}
    config = configuration(base, plan, bits)
    passes = (InsertObservers(config), Calibrate(batches), FakeQuantize())
    rounded = Pipeline(passes, frozenset({CORE_FORM})).run(tidy)
    for part, count in bits.items():
        calls = part.roundings(rounded)
        assert calls
        most = 2 ** (count - 1) - 1 if part.kind == "weights" else 2**count - 1
        assert {call.args[4] for call in calls} == {most}
    assert not any(info(n).integer for n in rounded.graph.nodes if info(n).module_path == "fc")


def test_the_configuration_of_nothing_is_the_one_before() -> None:
    gm, _ = residual()
    plan = plan_quantization(gm, QuantConfig())
    assert configuration(QuantConfig(), plan, {}) == QuantConfig()
    assert configuration(QuantConfig(), plan, dict.fromkeys(parts_of(gm, plan), 8)) == QuantConfig()


def test_roundings_are_found_in_graphs_of_any_bits() -> None:
    gm = traced(nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()), torch.randn(1, 3, 2, 2))
    plan = plan_quantization(gm, QuantConfig())
    observed = InsertObservers(QuantConfig())
    passes = (observed, Calibrate([torch.randn(2, 3, 2, 2)]), FakeQuantize())
    rounded = Pipeline(passes).run(gm)
    weights, inputs, *outputs = parts_of(gm, plan)
    assert [n.args[0].op for n in weights.roundings(rounded)] == ["get_attr"]  # type: ignore[union-attr]  # they are nodes
    assert [n.args[0].op for n in inputs.roundings(rounded)] == ["placeholder"]  # type: ignore[union-attr]  # they are nodes
    assert not outputs  # nothing but the output reads them

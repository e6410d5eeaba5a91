from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import nn
from torch.fx import GraphModule

import qpc
from qpc.assets import load_demo_images, load_demo_model
from qpc.errors import PassError
from qpc.explanation.explain import explain
from qpc.explanation.result import Explanation
from qpc.meta import label
from qpc.quant.config import ActivationConfig, LayerConfig, Override, QuantConfig
from qpc.quant.observers import MinMax
from qpc.registry import op_name
from tests.explanation.faults import (
    NETWORKS,
    Residual,
    Squeeze,
    images,
    layers_of,
    made_up_profile,
    seeded,
    share_of_islands,
    stages,
    with_clipped_values,
    with_slow_island,
    with_wrong_scale,
)

Stages = tuple[GraphModule, GraphModule]


class Networks:
    """The stages of the networks, made when they are asked for."""

    def __init__(self) -> None:
        self._made: dict[int, Stages] = {}

    def __getitem__(self, place: int) -> Stages:
        if place not in self._made:
            self._made[place] = stages(seeded(NETWORKS[place], place))
        return self._made[place]

    def __iter__(self) -> Iterator[Stages]:
        return (self[place] for place in range(len(NETWORKS)))


@pytest.fixture(scope="module")
def networks() -> Networks:
    return Networks()


def explained(gm: GraphModule, integer: GraphModule) -> Explanation:
    """With a profile that is made up: tests measure no times."""
    profile = made_up_profile(integer)
    return explain(gm, integer, [images()], profile=profile, float_time=False)


def test_what_is_no_graph_or_not_quantized_is_refused() -> None:
    gm = qpc.trace(nn.Linear(2, 2), torch.ones(2, 2))
    with pytest.raises(PassError) as caught:
        explain(gm, nn.Linear(2, 2), [], float_time=False)  # type: ignore[arg-type]  # wrong on purpose
    assert str(caught.value) == "explain needs a traced graph, got Linear"
    with pytest.raises(PassError, match="needs a quantized graph, and this one is in float"):
        explain(gm, gm, [], float_time=False)


@pytest.mark.every(3)
@pytest.mark.parametrize("network", range(len(NETWORKS)))
def test_a_layer_with_a_wrong_scale_comes_first(network: int, networks: Networks) -> None:
    gm, integer = networks[network]
    broken, name = with_wrong_scale(integer, 1, 2.0)
    first = explained(gm, broken).changes[0]
    assert (first.layer, first.gain) == (name, "accuracy")
    assert "times what they must be" in first.cause
    assert first.what == "its scale is wrong: quantize again from the float model"


@pytest.mark.parametrize("network", range(len(NETWORKS)))
def test_a_layer_whose_values_are_clipped_comes_first(network: int, networks: Networks) -> None:
    gm, integer = networks[network]
    broken, name = with_clipped_values(integer, 2, 0.3)
    first = explained(gm, broken).changes[0]
    assert (first.layer, first.gain) == (name, "accuracy")
    assert "of its values are clipped: they reach" in first.cause


def test_a_slow_operator_in_float_comes_first_with_what_it_takes_along() -> None:
    gm, integer = stages(with_slow_island(Residual, 0, 1))
    first = explained(gm, integer).changes[0]
    assert (first.layer, first.gain) == ("inner.a (cumsum)", "time")
    assert first.cause.endswith("cumsum has no integer form")
    assert "cumsum, mul, relu run in float" in first.cause


@pytest.mark.slow
def test_of_thirty_faults_in_three_networks_the_layer_comes_first_28_times(
    networks: Networks,
) -> None:
    found = []
    for seed, (make, (gm, integer)) in enumerate(zip(NETWORKS, networks, strict=True)):
        for place, factor in enumerate((0.5, 2.0, 1.3, 0.75)):
            broken, name = with_wrong_scale(integer, place, factor)
            found.append(explained(gm, broken).changes[0].layer == name)
        for place, part in enumerate((0.4, 0.25, 0.4, 0.3)[1:], 1):
            broken, name = with_clipped_values(integer, place, part)
            found.append(explained(gm, broken).changes[0].layer == name)
        for place in range(3):
            slow = with_slow_island(make, seed, place)
            traced, broken = stages(slow)
            name = next(label(n) for n in broken.graph.nodes if op_name(n) == "cumsum")
            found.append(explained(traced, broken).changes[0].layer == name)
    assert len(found) == 30
    assert sum(found) >= 28


@pytest.mark.slow
def test_of_thirty_faults_drawn_at_random_the_layer_comes_first_28_times() -> None:
    """In networks with weights of their own for each; the trained one is the demonstration's."""
    drawn, found = random.Random(2024), []
    for number in range(30):
        make = (Squeeze, Residual, lambda: load_demo_model()[0])[number % 3]
        found.append(_found_first(make, number, drawn))
    assert sum(found) >= 28, found


def _found_first(make: Callable[[], nn.Module], number: int, drawn: random.Random) -> bool:
    """Whether a fault of a kind, place and size that are drawn comes first."""
    pixels = load_demo_images()
    given = (pixels.calibration, pixels.test[:8]) if number % 3 == 2 else (images(16), images(6))

    def both(model: nn.Module) -> Stages:
        gm = qpc.trace(model.eval(), given[1][:1])
        return gm, qpc.quantize(gm, given[0].split(64))

    kind = number // 3 % 3
    gm, integer = both(seeded(make, 100 + number))
    count = len(layers_of(integer))
    if kind == 0:
        factor = drawn.choice((drawn.uniform(0.5, 0.8), drawn.uniform(1.25, 2.0)))
        integer, name = with_wrong_scale(integer, drawn.randrange(count), factor)
    elif kind == 1:
        place, part = drawn.randrange(count - 1), drawn.uniform(0.25, 0.4)
        integer, name = with_clipped_values(integer, place, part)
    else:
        share = 0.0
        while share < 0.1:  # of the time: others are not slow
            slow = with_slow_island(make, 100 + number, drawn.randrange(count))
            gm, integer = both(slow)
            share = share_of_islands(made_up_profile(integer))
        name = next(label(n) for n in integer.graph.nodes if op_name(n) == "cumsum")
    profile = made_up_profile(integer)
    changes = explain(gm, integer, [given[1]], profile=profile, float_time=False).changes
    return bool(changes) and changes[0].layer == name


@pytest.mark.thorough
def test_own_errors_add_up_to_the_error_of_the_model(networks: Networks) -> None:
    for gm, integer in networks:
        found = explain(gm, integer, [images()], float_time=False)
        own = sum(row.own_noise or 0.0 for row in found.layers)
        assert own == pytest.approx(found.noise, rel=0.5)  # within 2 dB: errors partly cancel


@pytest.mark.thorough
def test_an_own_error_is_that_of_the_layer_alone(networks: Networks) -> None:
    gm, integer = networks[0]
    broken, name = with_wrong_scale(integer, 1, 2.0)
    before, after = (explain(gm, g, [images()], float_time=False) for g in (integer, broken))
    others = [
        (a.own_noise, b.own_noise)
        for a, b in zip(before.layers, after.layers, strict=True)
        if a.name != name
    ]
    assert all(a == b for a, b in others), "nothing but the layer itself has another error"


@pytest.mark.thorough
def test_a_rounded_graph_is_explained_as_the_integers_that_it_becomes() -> None:
    gm = qpc.trace(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1)), images(1))
    rounded = qpc.prepare_qat(gm, [images()], learn=None)
    found = explain(gm, rounded, [images(2)], float_time=False)
    assert [row.form for row in found.layers if row.macs] == ["integer", "integer"]
    assert [row.clipped for row in found.layers if row.macs][1] == 0.0, "a float has no grid"
    assert found.sqnr_db > 20


@pytest.mark.thorough
def test_reasons_stand_in_the_rows() -> None:
    config = qpc.QuantConfig(
        default=LayerConfig(results="integer"),  # so that the sum is an operator of its own
        overrides=(Override(module="head", use="float"),),
    )
    gm = qpc.trace(seeded(Residual, 0).eval(), images(1))
    integer = qpc.quantize(gm, [images()], config)
    found = explain(gm, integer, [images(2)], profile=made_up_profile(integer))
    rows = {row.module: row for row in found.layers if row.macs}
    assert rows["head"].why_float == "kept in float by the configuration"
    assert rows["head"].why_whole == "it reaches the output of the graph"
    assert rows["stem"].why_whole == ""
    add = next(row for row in found.layers if row.operator == "add")
    assert add.why_alone.startswith("its operands differ in shape, or the layer before")
    assert rows["a"].float_us is not None
    assert rows["a"].float_us > 0


def test_the_result_is_text_and_json(networks: Networks) -> None:
    gm, integer = networks[0]
    found = explained(gm, integer)
    text = found.table(3)
    assert "outputs agree with float to" in text
    assert len([line for line in text.splitlines() if "conv2d" in line or "linear" in line]) >= 2
    data = json.loads(found.dumps())
    assert data["format"] == "qpc-explanation-1"
    assert len(data["layers"]) == len(found.layers)
    assert math.isclose(data["sqnr_db"], found.sqnr_db)
    assert len(repr(found)) < 80


def test_progress_is_told(networks: Networks) -> None:
    gm, integer = networks[0]
    said: list[tuple[int, int]] = []
    explain(gm, integer, [images(2)] * 2, float_time=False, told=lambda *x: said.append(x))
    assert said == [(n, len(said)) for n in range(1, len(said) + 1)]


def test_what_cannot_be_explained_is_refused(networks: Networks) -> None:
    gm, integer = networks[0]
    with pytest.raises(PassError, match="needs a quantized graph, and this one is in float"):
        explain(gm, gm, [images()])
    with pytest.raises(PassError, match="there are no batches to explain with"):
        explain(gm, integer, [])
    other = qpc.trace(nn.Sequential(nn.Linear(3, 2)), torch.randn(1, 3))
    for node in other.graph.nodes:
        node.name = f"other_{node.name}"
    with pytest.raises(PassError, match="the two graphs have no value in common"):
        explain(other, integer, [torch.randn(1, 3)])


@pytest.mark.parametrize(
    ("reader", "advice"),
    [(nn.Linear(16, 8), "--mode dynamic"), (nn.Conv2d(3, 8, 3), "keep what reads it in float")],
)
def test_what_rounds_values_of_float_operators_is_mended_where_they_are_read(
    reader: nn.Module, advice: str
) -> None:
    torch.manual_seed(0)
    batches = [torch.randn(4, 3, 8, 16)]
    gm = qpc.trace(nn.Sequential(nn.LayerNorm(16), reader), batches[0])
    coarse = QuantConfig(
        default=LayerConfig(activation=ActivationConfig(bits=3, observer=MinMax()))
    )
    found = explain(gm, qpc.quantize(gm, batches, coarse), batches, float_time=False)
    (said,) = [c.what for c in found.changes if c.layer.startswith("0 (quantize")]
    assert advice in said

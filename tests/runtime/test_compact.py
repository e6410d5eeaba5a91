from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("tvm", reason="needs Apache TVM")

from qpc.backends import tvm
from qpc.backends.tvm.kernels.conv.filtering import FILTERINGS
from qpc.runtime.arrays import Stored
from qpc.runtime.compact import compact, spread
from qpc.targets import Target
from tests.generators import IntegerGraph

pytestmark = pytest.mark.tvm


@pytest.mark.parametrize("out", FILTERINGS)
@pytest.mark.parametrize("kind", ["random", "extreme", "zero"])
def test_weights_of_minimal_filtering_are_saved_as_their_taps(out: int, kind: str) -> None:
    taps = {
        "random": np.random.randint(-128, 128, (2, 9, 3, 2, 8, 2)),
        "extreme": np.random.choice([-128, 127], (2, 9, 3, 2, 8, 2)),
        "zero": np.zeros((2, 9, 3, 2, 8, 2)),
    }[kind].astype(np.int8)
    weights = {"w": Stored.of(FILTERINGS[out].spread(taps)), "b": Stored.of(np.ones(3))}
    saved, places = compact(weights)
    assert np.array_equal(saved["w"].array, taps)
    again = spread(saved, places)
    assert again.keys() == weights.keys()
    assert _equal(again, weights)


@pytest.mark.parametrize("out", FILTERINGS)
def test_what_only_looks_like_them_stays(out: int) -> None:
    places = FILTERINGS[out].places
    other = Stored.of(np.random.randint(-199, 199, (2, places, 1, 1, 8, 2), np.int16))
    saved, found = compact({"w": other, "flat": Stored.of(other.array[0])})
    assert found == {}
    assert saved["w"] is other


@pytest.mark.parametrize("shape", [(5, 4), (2, 16, 1, 1, 8, 2), (0, 3)])
def test_weights_of_16_bits_are_saved_as_those_of_8_that_they_are(shape: tuple[int, ...]) -> None:
    wide = np.random.choice([-128, 0, 1, 127], shape).astype(np.int16)
    weights = {"w": Stored.of(wide), "large": Stored.of(np.array([128], np.int16))}
    saved, places = compact(weights)
    assert (saved["w"].type.dtype, places) == ("int8", {"w": 1})
    assert saved["large"] is weights["large"]
    again = spread(saved, places)
    assert again["w"].type == weights["w"].type
    assert _equal(again, weights)


@pytest.mark.parametrize("out", FILTERINGS)
def test_places_are_spread_as_weights_are_transformed(out: int) -> None:
    weight = np.random.randint(-128, 128, (4, 5, 3, 3)).astype(np.int8)
    taps = weight.reshape(20, 9).T[None]
    filtering = FILTERINGS[out]
    assert np.array_equal(
        filtering.spread(taps)[0], filtering.weights(weight).reshape(filtering.places, -1)
    )


@pytest.mark.parametrize(
    ("places", "message"),
    [
        ({"gone": 16}, "places: there is no 'gone', or none with 16 places"),
        ({"w": 9}, "places: there is no 'w', or none with 9 places"),
        ({"w": 16}, "places: 'w' is float32.*, not 3 x 3 values of int8"),
        ({"w": 1}, "places: 'w' is float32.*, not int8"),
    ],
)
def test_places_of_what_is_none_are_an_error(places: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        spread({"w": Stored.of(np.zeros((1, 9), np.float32))}, places)


def test_a_model_is_saved_with_fewer_weights_and_loads_all(tmp_path: Path) -> None:
    if reason := Target.parse("x86-64-avx2").runs_here():
        pytest.skip(reason)
    g = IntegerGraph()
    window = ([1, 1], [1, 1], [1, 1], 1, 3, 4, 0, 255)
    layer = g.layer((32, 32, 3, 3), extreme=False)
    y = g.call(torch.ops.qpc.conv2d.default, g.image(32, 16, 16), *layer, *window)
    compiled = tvm.compile_graph(g.module(y), "x86-64-avx2")
    weights = compiled._parts.weights
    saved, places = compact(weights)
    assert len(places) == 1
    assert sum(t.data.size for t in saved.values()) < sum(t.data.size for t in weights.values()) / 2
    compiled.save(tmp_path / "model")
    loaded = tvm.load(tmp_path / "model")._parts.weights
    assert loaded.keys() == weights.keys()
    assert _equal(loaded, weights)


def _equal(some: Mapping[str, Stored], others: Mapping[str, Stored]) -> bool:
    return all(np.array_equal(some[name].array, stored.array) for name, stored in others.items())

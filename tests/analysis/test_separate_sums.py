from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qpc.analysis.separate_sums import with_separate_sums
from qpc.calls import qpc_ops
from qpc.errors import CalibrationError, ConfigError
from qpc.layers import integer_layer
from qpc.meta import info
from qpc.quant.config import ActivationConfig, LayerConfig, QuantConfig
from qpc.quant.observers import MinMax, Percentile
from tests.quantizing import Parts, fake_quantized, integer

IMAGE = torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(0))
LAYERS = {
    "first": nn.Conv2d(3, 4, 3, padding=1),
    "a": nn.Conv2d(4, 4, 3, padding=1),
    "b": nn.ConvTranspose2d(4, 4, 3, padding=1),
    "c": nn.Linear(6, 6),
    "last": nn.Conv2d(4, 2, 1),
}


def forward(net: Any, x: Tensor) -> Tensor:
    x = net.first(x)
    x = torch.relu(net.a(x) + x)
    x = torch.relu(net.b(x) - x)
    last: Tensor = net.last(net.c(x) + x)
    return last


@pytest.fixture(scope="module")
def joined() -> torch.fx.GraphModule:
    model = Parts(forward, **LAYERS).eval()
    return integer(fake_quantized(model, IMAGE, config=QuantConfig()))


def test_layers_and_additions_stand_apart_on_grids_of_their_own(
    joined: torch.fx.GraphModule,
) -> None:
    before = [str(n.target) for n in joined.graph.nodes]
    made, layers = with_separate_sums(joined)
    assert [str(n.target) for n in joined.graph.nodes] == before
    names = [str(n.target).split(".")[1] for n in made.graph.nodes if n.op == "call_function"]
    assert " ".join(names) == (
        "quantize conv2d conv2d add conv_transpose2d add linear add conv2d_float"
    )
    assert [info(layer).module_path for layer in layers] == ["a", "b", "c"]
    for layer in layers:
        view, grid = integer_layer(layer), info(layer).qparams
        assert view is not None
        assert grid is not None
        assert (layer.args[-3], *layer.args[-2:]) == (grid.zero_point, grid.lo, grid.hi)


def test_no_grid_is_narrower_than_a_result_needs(joined: torch.fx.GraphModule) -> None:
    """What rounding to 8 bits changes is some steps of the sums, and no value is clipped."""
    made, _ = with_separate_sums(joined)
    with torch.no_grad():
        wanted, found = joined(IMAGE), made(IMAGE)
    assert float((wanted - found).abs().max()) <= 0.05 * float(wanted.abs().max())  # of 8 bits
    assert not torch.equal(wanted, found)


def test_a_graph_without_them_is_left_as_it_is() -> None:
    gm = integer(fake_quantized(nn.Conv2d(3, 4, 1).eval(), IMAGE))
    assert with_separate_sums(gm) == (gm, ())
    assert not gm.graph.find_nodes(op="call_function", target=qpc_ops.add.default)


def test_with_data_grids_are_as_narrow_as_the_values(joined: torch.fx.GraphModule) -> None:
    wide, narrow = (with_separate_sums(joined, batches=b) for b in (None, IMAGE.split(4)))
    for a, b in zip(wide[1], narrow[1], strict=True):
        before, now = info(a).qparams, info(b).qparams
        assert before is not None
        assert now is not None
        assert now.scale < before.scale
    wanted = joined(IMAGE)
    apart = [(made(IMAGE) - wanted).square().sum() for made, _ in (wide, narrow)]
    assert apart[1] < apart[0]


def test_the_observer_of_a_layer_chooses_its_grid() -> None:
    scales = {}
    for observer in (MinMax(), Percentile(percent=50.0)):
        layer = LayerConfig(activation=ActivationConfig(observer=observer))
        model = Parts(forward, **LAYERS).eval()
        gm = integer(fake_quantized(model, IMAGE, config=QuantConfig(default=layer)))
        _, layers = with_separate_sums(gm, batches=IMAGE.split(4))
        grids = [q for each in layers if (q := info(each).qparams) is not None]
        scales[observer.kind] = [grid.scale for grid in grids]
    assert len(scales["min-max"]) == 3
    assert all(a < b for a, b in zip(scales["percentile"], scales["min-max"], strict=True))


def test_values_that_are_no_numbers_are_told_of(joined: torch.fx.GraphModule) -> None:
    with pytest.raises(CalibrationError, match="holds NaN or infinite values"):
        with_separate_sums(joined, batches=[IMAGE * float("nan")])


def test_grids_need_some_batch_if_any(joined: torch.fx.GraphModule) -> None:
    with pytest.raises(ConfigError, match="there are no batches to see how far values go on"):
        with_separate_sums(joined, batches=[])

"""Models that take images as bytes and normalise them themselves start in integers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import qpc
from qpc.exporting.onnx.model import to_qdq
from qpc.facts import CORE_FORM, OBSERVED
from qpc.passes import Calibrate, FakeQuantize
from qpc.pipeline import Pipeline
from qpc.recipes import prepare
from qpc.registry import op_name
from qpc.testing import randomized, traced

IMAGES = torch.randint(40, 200, (2, 3, 8, 8), dtype=torch.uint8)


class Normalised(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406]).reshape(3, 1, 1))
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225]).reshape(3, 1, 1))
        self.first, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = (x.float() / 255 - self.get_buffer("mean")) / self.get_buffer("std")
        y: Tensor = self.last(self.first(x).relu())
        return y


@pytest.fixture(scope="module")
def gm() -> torch.fx.GraphModule:
    return traced(randomized(Normalised()), IMAGES)


def test_no_float_operator_is_in_front(gm: torch.fx.GraphModule) -> None:
    quantized = qpc.quantize(gm, [IMAGES])
    calls = [op_name(n) for n in quantized.graph.nodes if n.op == "call_function"]
    assert calls == ["lookup", "conv2d", "conv2d", "conv2d_float"]
    assert qpc.compare(gm, quantized, [IMAGES]).outputs[0].sqnr_db > 30
    everything = torch.arange(192, dtype=torch.uint8).reshape(1, 3, 8, 8)  # not all was seen
    assert float((gm(everything) - quantized(everything)).detach().abs().max()) < 2.0
    compiled = qpc.compile(quantized, batch_sizes=(2,))
    assert torch.equal(torch.as_tensor(compiled(IMAGES)), quantized(IMAGES))
    first = to_qdq(quantized, batch=2).graph.node[0]
    assert first.op_type == "DequantizeLinear"


def test_grids_of_int8_take_the_way_through_float(gm: torch.fx.GraphModule) -> None:
    observed = prepare().run(gm)
    passes = (Calibrate([IMAGES]), FakeQuantize(signed=True))
    fake = Pipeline(passes, frozenset({CORE_FORM, OBSERVED})).run(observed)
    calls = [op_name(n) for n in qpc.convert(fake).graph.nodes if n.op == "call_function"]
    assert calls[:2] == ["to", "quantize"]

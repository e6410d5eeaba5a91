from __future__ import annotations

import operator
import re

import pytest
import torch
from torch import Tensor, nn
from torch.fx import Graph, Node

from qpc.calls import aten
from qpc.meta import update_info
from qpc.printer import format_graph, format_type
from qpc.quant.grid import QParams
from qpc.testing import traced
from qpc.types import BatchDim
from tests.conftest import Golden
from tests.quantizing import fake_quantized, integer, observed
from tests.small_models import graph_of, only


class Net(nn.Module):
    """One of each kind of layer, whose weights are simple numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2), nn.ReLU())
        self.branch = nn.Conv2d(2, 2, 1, bias=False)
        self.fc = nn.Linear(4, 3)
        for number, parameter in enumerate(self.parameters(), start=1):
            nn.init.constant_(parameter, number / 8)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = self.stem(x)
        y = torch.cat([torch.sigmoid(self.branch(y)), nn.functional.max_pool2d(y, 3, 1, 1)], 1)
        return {"scores": self.fc(y.mean((2, 3))), "input": x}


X = torch.linspace(-1, 1, 16).reshape(1, 1, 4, 4)


def test_every_stage_of_quantization_prints_the_same_on_every_machine(golden: Golden) -> None:
    model = Net()
    fake = fake_quantized(model, X, random=False)
    stages = {
        "traced": traced(model, X),
        "observed": observed(model, X),
        "fake-quantized": fake,
        "integer": integer(fake),
    }
    text = "\n".join(f"{k}\n{format_graph(gm)}" for k, gm in stages.items())
    golden("printed_stages", short_numbers(text))


def short_numbers(text: str) -> str:
    """Round what is printed to the digits in which the float arithmetic of all CPUs agrees."""
    return re.sub(r"\d+\.\d{6,}", lambda number: f"{float(number[0]):.5g}", text)


def line(node: Node, gm: torch.fx.GraphModule) -> str:
    return next(
        text.strip()
        for text in format_graph(gm).splitlines()
        if text.startswith(f"  %{node.name}:")
    )


@pytest.mark.parametrize(
    ("dtype", "text"),
    [
        (torch.float32, "f32"),
        (torch.float16, "f16"),
        (torch.uint8, "u8"),
        (torch.int64, "i64"),
        (torch.bool, "bool"),
        (torch.complex64, "torch.complex64"),
    ],
)
def test_types_are_short(dtype: torch.dtype, text: str) -> None:
    assert format_type((BatchDim(64), 3), dtype) == f"{text}[64N, 3]"


def test_unknown_types_are_a_question_mark() -> None:
    assert format_type(None, torch.float32) == format_type((3,), None) == "?"


def test_arguments_print_as_written() -> None:
    def build(graph: Graph, x: Node) -> tuple[Node, ...]:
        pair = graph.call_function(aten.max.dim, (x, 1), {"keepdim": True})
        item = graph.call_function(operator.getitem, (pair, 0))
        cast = graph.call_function(aten.to.dtype, (x, torch.float64))
        pads = graph.call_function(aten.constant_pad_nd.default, (x, [1, 2], 0.5))
        means = graph.call_function(aten.mean.dim, (x, [1]), {"dtype": torch.float64})
        text = graph.call_function(aten.gelu.default, (x,), {"approximate": "tanh"})
        return item, cast, pads, means, text

    assert format_graph(graph_of(build, 3)) == (
        "graph:\n"
        "  %x: f32[N, 3] = input\n"
        "  %max_dim: ? = aten.max.dim(%x, 1, keepdim=True)\n"
        "  %getitem: f32[N, 1] = getitem(%max_dim, 0)\n"
        "  %to_dtype: f64[N, 3] = aten.to.dtype(%x, f64)\n"
        "  %constant_pad_nd_default: f32[N, 6] = aten.constant_pad_nd(%x, [1, 2], 0.5)\n"
        "  %mean_dim: f64[N] = aten.mean.dim(%x, [1], dtype=f64)\n"
        "  %gelu_default: f32[N, 3] = aten.gelu(%x, approximate='tanh')\n"
        "  return (%getitem, %to_dtype, %constant_pad_nd_default, %mean_dim, %gelu_default)\n"
    )


def test_grids_observers_and_modules_are_remarks() -> None:
    gm = graph_of(lambda g, x: g.call_function(aten.relu.default, (x,)), 3)
    relu = only(gm, aten.relu.default)
    assert line(relu, gm).endswith("aten.relu(%x)")
    update_info(relu, module_path="block.0")
    assert line(relu, gm).endswith("aten.relu(%x)  # block.0")
    update_info(relu, observer="observers.relu")
    assert line(relu, gm).endswith("# observer observers.relu; block.0")
    update_info(relu, qparams=QParams(0.10000000149011612, 3, 0, 255, torch.uint8))
    assert line(relu, gm).endswith("# scale 0.100000001, zero 3; block.0")


def test_nested_outputs_print_their_structure() -> None:
    def build(graph: Graph, x: Node) -> object:
        return {"a": [x, None], "b": (x, 3)}

    assert format_graph(graph_of(build, 3)).splitlines()[-1] == (
        "  return {a: [%x, None], b: (%x, 3)}"
    )

from __future__ import annotations

import json

import pytest
import torch
from torch import Tensor, nn

import qpc
from qpc.errors import PassError
from qpc.explanation.inspection import inspect_graph, stage_of
from qpc.quant.config import Override


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(2, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.b = nn.Conv2d(4, 6, 1)
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(self.b(self.norm(self.a(x)).relu()).cumsum(2).mean((2, 3)))
        return found


@pytest.fixture(scope="module")
def gm() -> torch.fx.GraphModule:
    return qpc.trace(Net().eval(), torch.zeros(1, 2, 6, 6))


def test_a_float_graph_tells_what_will_be_integer_and_what_not_and_why(
    gm: torch.fx.GraphModule,
) -> None:
    found = inspect_graph(gm)
    rows = {row.module or row.operator: row for row in found.layers}
    assert [rows[name].form for name in ("a", "b", "head")] == ["integer"] * 3
    assert rows["cumsum"].why_float == "cumsum has no integer form"
    assert (rows["a"].macs, rows["a"].shape) == (4 * 18 * 16, "f32[N, 4, 4, 4]")
    assert "norm" not in rows, "it is folded"
    assert rows["head"].why_whole == "it reaches the output of the graph"
    assert found.inputs == {"x": "f32[N, 2, 6, 6]"}
    assert found.outputs == ("f32[N, 3]",)
    assert "in float, 1 operator: cumsum has no integer form" in str(found)


def test_the_configuration_decides_too(gm: torch.fx.GraphModule) -> None:
    config = qpc.QuantConfig(overrides=(Override(module="b", use="float"),))
    found = inspect_graph(gm, config)
    reason = next(row.why_float for row in found.layers if row.module == "b")
    assert reason == "kept in float by the configuration"


def test_groups_of_channels_name_the_layers_that_make_them(gm: torch.fx.GraphModule) -> None:
    groups = inspect_graph(gm).channels
    assert [(g.layers, g.channels, g.prunable) for g in groups] == [
        (("a",), 4, 4),
        (("b",), 6, 6),
        (("head",), 3, 0),
    ]


def test_every_stage_is_inspected(gm: torch.fx.GraphModule) -> None:
    data = [torch.randn(2, 2, 6, 6)]
    rounded = qpc.prepare_qat(gm, data, learn=None)
    integer = qpc.quantize(gm, data)
    assert [stage_of(g) for g in (gm, rounded, integer)] == ["float", "rounded", "integer"]
    for graph in (rounded, integer):
        rows = {row.module: row for row in inspect_graph(graph).layers if row.macs}
        assert {name: (row.form, row.weight_bits) for name, row in rows.items()} == {
            "a": ("integer", 8),
            "b": ("integer", 8),
            "head": ("integer", 8),
        }
    data_of = json.loads(json.dumps(inspect_graph(integer).to_json()))
    assert data_of["stage"] == "integer"


def test_what_is_no_graph_is_refused() -> None:
    with pytest.raises(PassError, match="inspect"):
        inspect_graph(nn.Linear(2, 2))  # type: ignore[arg-type]  # on purpose

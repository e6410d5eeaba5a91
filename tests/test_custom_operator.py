"""A package outside of QPC adds operators with public names alone, and everything works on them."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

import qpc
from qpc import registry
from qpc.analysis.exactness import exactness
from qpc.analysis.integer_proofs import check_integers
from qpc.channels.cost import cost
from qpc.channels.groups import analyze_channels
from qpc.errors import BackendError
from qpc.pruning.allocation import Uniform
from qpc.pruning.magnitude import L1
from qpc.registry import op_name
from qpc.shapes import concrete_shapes
from qpc.testing import traced
from tests.public_names import private_names

PACKAGE = Path(__file__).parent / "data" / "sample_operators"
X = torch.randn(4, 3, 6, 5, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def sample() -> Iterator[ModuleType]:
    """The package, whose operators are known as long as this file's tests run."""
    with pytest.MonkeyPatch.context() as patch:
        registry.registered()
        patch.setattr(registry, "_SPECS", dict(registry._SPECS))
        patch.syspath_prepend(PACKAGE)
        yield importlib.import_module("sample_operators")


class Net(nn.Module):
    def __init__(self, *, computed: bool = False) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)
        self.weight = nn.Parameter(torch.randn(8, generator=generator))
        self.computed = computed

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.exp() if self.computed else self.weight
        scaled = torch.ops.sample.scale(self.a(x), weight)
        y: Tensor = self.b(torch.ops.sample.softabs(scaled))
        return y


@pytest.fixture
def graph(sample: ModuleType) -> GraphModule:
    torch.manual_seed(2)
    return traced(Net(), X)


def operators(gm: GraphModule) -> list[str]:
    return [op_name(node) for node in gm.graph.nodes if node.op == "call_function"]


def test_the_package_uses_public_names_alone() -> None:
    assert private_names(PACKAGE) == set()


def test_the_operators_become_integer_and_define_the_result(graph: GraphModule) -> None:
    quantized = qpc.quantize(graph, [X])
    assert operators(quantized) == [
        *("quantize", "conv2d", "int_scale", "lookup", "conv2d", "dequantize")
    ]
    real, got = graph(X).detach(), quantized(X)
    assert float((real - got).abs().max()) < 0.05 * float(real.abs().max())  # 8 bits, four times
    assert [output.exact for output in exactness(quantized)] == [True]
    compiled = qpc.compile(quantized, target="reference", batch_sizes=(4,))
    assert torch.equal(torch.as_tensor(compiled(X)), got)


def test_a_call_that_cannot_be_integer_says_why(sample: ModuleType) -> None:
    ctx = qpc.PassContext()
    qpc.quantize(traced(Net(computed=True), X), [X], ctx=ctx)
    reasons = {remark.node: remark.text for remark in ctx.declined}
    assert reasons["scale"].startswith("its weight exp is computed, not a parameter")


def test_an_integer_graph_can_be_saved_and_proven(graph: GraphModule, tmp_path: Path) -> None:
    quantized = qpc.quantize(graph, [X])
    qpc.save_graph(quantized, tmp_path / "graph")
    again = qpc.load_graph(tmp_path / "graph")
    assert torch.equal(again(X), quantized(X))
    check_integers(again, concrete_shapes(again, 1))


def test_numbers_that_are_not_sound_are_refused(graph: GraphModule, sample: ModuleType) -> None:
    quantized = qpc.quantize(graph, [X])
    (node,) = (n for n in quantized.graph.nodes if n.target is sample.INT_SCALE)
    quantized.get_buffer(str(node.args[1].target))[0] = torch.inf
    with pytest.raises(BackendError, match="a multiplier is infinite or NaN"):
        check_integers(quantized, concrete_shapes(quantized, 1))


def test_channels_of_the_parameter_go_with_those_of_the_values(graph: GraphModule) -> None:
    analysis = analyze_channels(graph)
    group = analysis.group_of("a.weight")
    assert group is not None
    assert [str(piece) for piece in group.slices] == [
        *("a.weight[0:8]", "a.bias[0:8]", "weight[0:8]", "b.weight[:, 0:8]")
    ]
    pruned = qpc.prune(graph, L1(), Uniform(0.5))
    assert pruned.get_parameter("weight").shape == (4,)
    assert operators(qpc.quantize(pruned, [X])).count("int_scale") == 1


def test_its_cost_is_counted(graph: GraphModule) -> None:
    row = next(line for line in cost(graph).layers if line.op == "scale")
    assert (row.parameters, row.macs) == (8, 8 * 4 * 3)

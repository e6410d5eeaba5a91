"""Parameters among the operands of sums and products are rounded to grids of their own."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import qpc
from qpc.analysis.quantization import plan_quantization
from qpc.backends import onnx
from qpc.calls import qpc_ops
from qpc.meta import info
from qpc.quant.config import QuantConfig
from qpc.testing import randomized, traced
from tests.small_models import nodes_of, only

X = torch.randn(3, 5, 8, generator=torch.Generator().manual_seed(0))


class Positions(nn.Module):
    """A table that is added, one that multiplies, and a scale of the last axis behind a ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 16), nn.Linear(16, 4)
        self.table, self.gates = nn.Parameter(torch.randn(5, 16)), nn.Parameter(torch.rand(5, 16))
        self.scale = nn.Parameter(torch.rand(16))

    def forward(self, x: Tensor) -> Tensor:
        x = (self.a(x) + self.table).relu() * self.scale
        return self.b(x + x * self.gates)


@pytest.fixture(scope="module")
def float_graph() -> torch.fx.GraphModule:
    return traced(randomized(Positions()), X)


@pytest.fixture(scope="module")
def integer_graph(float_graph: torch.fx.GraphModule) -> torch.fx.GraphModule:
    return qpc.quantize(float_graph, [X])


def test_a_table_becomes_integers_on_the_grid_of_its_own_range(
    float_graph: torch.fx.GraphModule, integer_graph: torch.fx.GraphModule
) -> None:
    table = dict(integer_graph.named_buffers())["table"]
    assert table.dtype == torch.uint8
    node = next(n for n in integer_graph.graph.nodes if n.target == "table")
    grid = info(node).qparams
    assert grid is not None
    real = (table.float() - grid.zero_point) * grid.scale
    wanted = dict(float_graph.named_parameters())["table"].detach()
    assert float((real - wanted).abs().max()) <= 0.51 * grid.scale
    assert 2 * grid.scale > float(wanted.max() - wanted.min()) / 255


def test_nothing_is_left_in_float(integer_graph: torch.fx.GraphModule) -> None:
    assert len(nodes_of(integer_graph, qpc_ops.quantize.default)) == 1
    assert only(integer_graph, qpc_ops.mul.default)
    assert len(nodes_of(integer_graph, qpc_ops.add.default)) == 2
    assert only(integer_graph, qpc_ops.conv2d.default)  # the scale of the last axis


def test_compiled_it_returns_the_same_bits(integer_graph: torch.fx.GraphModule) -> None:
    compiled = qpc.compile(integer_graph, batch_sizes=(3,))
    assert torch.equal(torch.as_tensor(compiled(X)), integer_graph(X))


def test_in_onnx_the_table_is_an_initialiser(integer_graph: torch.fx.GraphModule) -> None:
    assert "Add" in {node.op_type for node in onnx.to_qdq(integer_graph, batch=3).graph.node}


def test_tables_train(float_graph: torch.fx.GraphModule) -> None:
    fake = qpc.prepare_qat(float_graph, [X])
    qpc.set_training(fake)
    fake(X).sum().backward()
    assert dict(fake.named_parameters())["table"].grad is not None
    qpc.set_training(fake, mode=False)
    with torch.no_grad():
        dict(fake.named_parameters())["table"].mul_(0.5)
    assert torch.allclose(qpc.convert(fake)(X), fake(X), atol=0.1)  # a step here and there


def test_a_table_of_another_dtype_is_a_reason_for_float() -> None:
    class Counts(nn.Linear):
        def __init__(self) -> None:
            super().__init__(8, 8)
            self.register_buffer("counts", torch.ones(5, 8, dtype=torch.int64))

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) + self.counts

    plan = plan_quantization(traced(randomized(Counts()), X), QuantConfig())
    assert list(plan.declined.values()) == ["its operand counts is torch.int64"]

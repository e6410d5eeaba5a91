"""Operands that are parameters have grids of their own; choices and moves by constants."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import reduce

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import qpc
from qpc.analysis.quantization import plan_quantization
from qpc.calls import qpc_ops
from qpc.exporting.onnx.model import to_qdq
from qpc.meta import info
from qpc.quant.config import QuantConfig
from qpc.registry import op_name
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
        y: Tensor = self.b(x + x * self.gates)
        return y


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
    assert only(integer_graph, qpc_ops.mul.default).users
    assert len(nodes_of(integer_graph, qpc_ops.add.default)) == 2
    assert only(integer_graph, qpc_ops.conv2d.default).users  # the scale of the last axis


def test_compiled_it_returns_the_same_bits(integer_graph: torch.fx.GraphModule) -> None:
    compiled = qpc.compile(integer_graph, batch_sizes=(3,))
    assert torch.equal(torch.as_tensor(compiled(X)), integer_graph(X))


def test_in_onnx_the_table_is_an_initialiser(integer_graph: torch.fx.GraphModule) -> None:
    assert "Add" in {node.op_type for node in to_qdq(integer_graph, batch=3).graph.node}


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
            y: Tensor = super().forward(x) + self.get_buffer("counts")
            return y

    plan = plan_quantization(traced(randomized(Counts()), X), QuantConfig())
    assert list(plan.declined.values()) == ["its operand counts is torch.int64"]


# --- choices, and moves by constants --------------------------------------------------------------

IMAGE = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(1))
MASK = torch.arange(36).reshape(6, 6) % 3 == 0
PLACES = torch.tensor([2, 0, 1, 1])
CHOICES: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], str]] = {
    "larger": (torch.maximum, "maximum"),
    "smaller": (torch.minimum, "minimum"),
    "choice of two": (lambda a, b: torch.where(MASK, a, b), "where"),
    "choice of a number": (lambda a, b: torch.where(MASK, a, 0.5) + b, "masked_fill conv2d_add"),
    "or the other way": (lambda a, b: torch.where(MASK, 0.5, a) + b, "masked_fill conv2d_add"),
    "filled": (lambda a, b: a.masked_fill(MASK, -1.0) + b, "masked_fill conv2d_add"),
    "largest of channels": (lambda a, b: a.amax(1, keepdim=True) + b, "amax add"),
    "smallest of rows": (lambda a, b: a.amin(2, keepdim=True) * b, "amin mul"),
    "repeated": (lambda a, b: a[:, :2].repeat(1, 2, 1, 1) + b, "slice repeat conv2d_add"),
    "expanded": (
        lambda a, b: torch.cat([a.mean((2, 3), True).expand(-1, -1, 6, 6), b], 1)[:, 2:6],
        "mean expand cat slice",
    ),
    "places": (lambda a, b: a[:, PLACES] + b, "index conv2d_add"),
    "selected": (lambda a, b: a.index_select(1, PLACES) * b, "index_select mul"),
    "gated": (lambda a, b: F.glu(torch.cat([a, b], 1), 1), "cat slice slice lookup mul"),
}


class Two(nn.Module):
    """Some function of what two convolutions make, before a third; the sum of several."""

    def __init__(self, *functions: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 1), nn.Conv2d(4, 3, 1)
        self.functions = functions

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.a(x), self.b(x)
        y: Tensor = self.c(reduce(torch.add, [f(a, b) for f in self.functions]))
        return y


@pytest.mark.every(4)
@pytest.mark.parametrize("name", CHOICES)
def test_choices_and_moves_are_integer(name: str) -> None:
    function, expected = CHOICES[name]
    gm = traced(randomized(Two(function)), IMAGE)
    quantized = qpc.quantize(gm, [IMAGE])
    calls = [op_name(n) for n in quantized.graph.nodes if n.op == "call_function"]
    made = [c for c in calls if c not in ("quantize", "conv2d", "conv2d_float")]
    assert " ".join(made) == expected
    layers = ("quantize", "conv2d", "conv2d_float")
    assert [calls.count(c) for c in layers] == [1, 2 - made.count("conv2d_add"), 1]
    assert qpc.compare(gm, quantized, [IMAGE]).outputs[0].sqnr_db > 28
    assert to_qdq(quantized, batch=2)


@pytest.mark.thorough
def test_compiled_choices_return_the_same_bits() -> None:
    functions = [function for function, _ in CHOICES.values()]
    quantized = qpc.quantize(traced(randomized(Two(*functions)), IMAGE), [IMAGE])
    compiled = qpc.compile(quantized, batch_sizes=(2,))
    assert torch.equal(torch.as_tensor(compiled(IMAGE)), quantized(IMAGE))


REFUSED: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], str]] = {
    "computed mask": (lambda a, b: torch.where(a > 0, a, b), "an input is not float32"),
    "nearly infinite": (
        lambda a, b: a.masked_fill(MASK, -1e9) + b,
        "it fills with -1000000000.0, which no grid has room for beside other values",
    ),
    "infinite": (
        lambda a, b: (a.masked_fill(MASK, -math.inf) + b).relu(),
        "it fills with -inf, which no grid has room for beside other values",
    ),
    "parameter": (
        lambda a, b: torch.where(MASK, a, torch.linspace(0, 1, 6)),
        "it chooses values of a parameter",
    ),
    "over the batch": (lambda a, b: a.amax(0) + b, "it reduces the batch"),
    "computed places": (
        lambda a, b: a.index_select(1, b[0, :, 0, 0].argsort()),
        "an input is not float32",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_stays_in_float_has_a_reason(name: str) -> None:
    function, reason = REFUSED[name]
    gm = traced(randomized(Two(function)), IMAGE)
    assert reason in plan_quantization(gm, QuantConfig()).declined.values()


@pytest.mark.parametrize(("value", "refused"), [(1e4, 0), (-1e4, 0), (10_001.0, 1)])
def test_values_up_to_ten_thousand_are_filled_in_integers(value: float, refused: int) -> None:
    gm = traced(randomized(Two(lambda a, b: a.masked_fill(MASK, value) + b)), IMAGE)
    declined = plan_quantization(gm, QuantConfig()).declined.values()
    assert sum("it fills with" in reason for reason in declined) == refused

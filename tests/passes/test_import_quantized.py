"""Grids and weights of models that PT2E has quantized."""

from __future__ import annotations

import importlib
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

import qpc
from qpc.base import PassContext
from qpc.errors import PassError
from qpc.exporting.pt2e import to_pt2e
from qpc.meta import attribute, info
from qpc.passes import ImportQuantized
from qpc.pipeline import Pipeline
from qpc.recipes import to_integer
from tests.exporting.nets import images, rounded_residual

importlib.import_module("torch.ao.quantization.fx._decomposed")
FOREIGN = torch.ops.quantized_decomposed
X = torch.randn(2, 3, generator=torch.Generator().manual_seed(0))
INPUT = (0.03125, 128, 0, 255, torch.uint8)
OUTPUT = (0.0625, 3, -128, 127, torch.int8)


def rounded(x: Tensor, grid: tuple[Any, ...]) -> Tensor:
    result: Tensor = FOREIGN.dequantize_per_tensor(FOREIGN.quantize_per_tensor(x, *grid), *grid)
    return result


class Foreign(nn.Module):
    """A linear layer between two grids, with a stored weight of points, scales and zero points."""

    def __init__(self, points: Tensor, scales: Tensor, zeros: Tensor, axis: int = 0) -> None:
        super().__init__()
        self.axis, self.bias = axis, nn.Parameter(torch.tensor([0.5, -0.25]))
        for name, value in (("points", points), ("scales", scales), ("zeros", zeros)):
            self.register_buffer(name, value)

    def forward(self, x: Tensor) -> Tensor:
        ends = self.axis, -128, 127, torch.int8
        weight = FOREIGN.dequantize_per_channel(self.points, self.scales, self.zeros, *ends)
        return rounded(nn.functional.linear(rounded(x, INPUT), weight, self.bias), OUTPUT)


GRID_POINTS = (X * 32).round() / 32
POINTS = torch.tensor([[-128, 5, 127], [1, -128, 0]], dtype=torch.int8)
SCALES = torch.tensor([0.01, 0.02])
ZEROS = torch.zeros(2, dtype=torch.int64)


def foreign(
    points: Tensor = POINTS, scales: Tensor = SCALES, zeros: Tensor = ZEROS, axis: int = 0
) -> GraphModule:
    return qpc.trace(Foreign(points, scales, zeros, axis), X)


def traced(function: Any, x: Tensor = X) -> GraphModule:
    class Called(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            result: Tensor = function(self, x)
            return result

    torch.manual_seed(0)
    return qpc.trace(Called(), x)


def reasons(gm: GraphModule) -> str:
    with pytest.raises(PassError) as caught:
        qpc.import_quantized(gm)
    return str(caught.value)


def test_weights_are_the_integers_that_they_were_with_the_least_of_int8() -> None:
    gm = foreign()
    made = Pipeline((ImportQuantized(),)).run(gm, PassContext(thorough=True))
    (weight,) = [n for n in made.graph.nodes if "fake_quantize" in str(n.target)]
    assert weight.args[3:5] == (-128, 127)
    integer = qpc.import_quantized(gm, ctx=PassContext(thorough=True))
    assert torch.equal(attribute(integer, "linear.weight"), POINTS)
    assert float((integer(X) - gm(X)).abs().max()) <= OUTPUT[0]


def test_grids_are_those_of_the_model_and_count_from_0() -> None:
    integer = qpc.import_quantized(foreign())
    grids = {q for n in integer.graph.nodes if (q := info(n).qparams) is not None}
    found = {(q.scale, q.zero_point, q.lo, q.hi, q.dtype) for q in grids}
    assert found == {INPUT, (0.0625, 131, 0, 255, torch.uint8)}


@pytest.mark.thorough
def test_what_is_exported_as_pt2e_comes_back_as_the_same_integers() -> None:
    fake = rounded_residual()
    ours = to_integer().run(fake)
    back = qpc.import_quantized(qpc.trace(to_pt2e(fake), images()))
    assert torch.equal(back(images()), ours(images()))
    (x,) = {n.name for n in back.graph.nodes if n.op == "placeholder"}
    kinds = [sorted(str(n.target) for n in g.graph.nodes if n.name != x) for g in (back, ours)]
    assert [k for k in kinds[0] if "qpc" in k] == [k for k in kinds[1] if "qpc" in k]


def test_weights_whose_quantize_was_not_folded_are_integers_as_well() -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        grid = SCALES, ZEROS, 0, -128, 127, torch.int8
        points = FOREIGN.quantize_per_channel(m.layer.weight, *grid)
        weight = FOREIGN.dequantize_per_channel(points, *grid)
        return nn.functional.linear(rounded(x, INPUT), weight, m.layer.bias)

    gm = traced(forward)
    weight = attribute(gm, "layer.weight").detach()
    integer = qpc.import_quantized(gm)
    (stored,) = [b for b in integer.buffers() if b.dtype is torch.int8]
    assert torch.equal(stored, (weight / SCALES[:, None]).round().to(torch.int8))


def sum_with_one_rounded_operand() -> GraphModule:
    def forward(m: Any, x: Tensor) -> Tensor:
        x = rounded(x, INPUT)
        weight = FOREIGN.dequantize_per_channel(
            m.points, m.scales, m.zeros, 0, -128, 127, torch.int8
        )
        return torch.relu(nn.functional.linear(x, weight) + x).exp()

    class Sum(Foreign):
        def forward(self, x: Tensor) -> Tensor:
            return forward(self, x)

    points = torch.arange(-4, 5, dtype=torch.int8).reshape(3, 3)
    scales = torch.full((3,), 0.125)
    return qpc.trace(Sum(points, scales, torch.zeros(3, dtype=torch.int64)), X)


def test_a_sum_with_one_rounded_operand_stays_in_float_unless_it_is_calibrated() -> None:
    gm, ctx = sum_with_one_rounded_operand(), PassContext()
    in_float = qpc.import_quantized(gm, ctx=ctx)
    assert any(str(n.target) == "aten.add.Tensor" for n in in_float.graph.nodes)
    assert "no grid is given for relu; calibration batches would give it one" in str(ctx)
    assert torch.allclose(in_float(GRID_POINTS), gm(GRID_POINTS))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"zeros": torch.tensor([100, 0])}, "from -228 to 27, outside of int8"),
        ({"scales": torch.tensor([0.01, 2.0**120])}, "is not from 2**-126 to 2**119"),
        ({"scales": torch.tensor([0.01, 1e-12])}, "its bias does not fit 32 bits"),
        ({"scales": torch.ones(3), "zeros": torch.zeros(3).long(), "axis": 1}, "along axis 1"),
    ],
)
def test_weights_that_no_integer_layer_can_have_say_so(changes: dict[str, Any], why: str) -> None:
    assert why in reasons(foreign(**changes))


def test_a_layer_whose_weight_was_left_in_float_stays_there() -> None:
    gm = traced(lambda m, x: m.layer(rounded(x, INPUT)))
    assert "no grid is given for its weight" in reasons(gm)


def test_a_value_has_one_grid() -> None:
    other = (0.5, *INPUT[1:])
    gm = traced(lambda m, x: rounded(x, INPUT) + rounded(x, other))
    assert "the value of x is rounded to two grids" in reasons(gm)


def test_operators_that_do_not_stand_in_pairs_are_named() -> None:
    gm = traced(lambda m, x: FOREIGN.quantize_per_tensor(x, *INPUT))
    assert re.search(r"1 quantize .* do not stand in pairs .*quantize_per_tensor", reasons(gm))


def test_grids_of_other_integers_are_refused() -> None:
    gm = traced(lambda m, x: rounded(x, (0.5, 0, -(2**15), 2**15 - 1, torch.int16)))
    assert "has no grid of 8 bits: dtype must be torch.uint8 or torch.int8" in reasons(gm)


def test_a_graph_without_such_operators_is_refused() -> None:
    assert "there is nothing to import" in reasons(traced(lambda m, x: m.layer(x)))


def test_quantize_refuses_what_another_tool_has_quantized_in_one_message() -> None:
    with pytest.raises(PassError, match="has 5 quantize and dequantize operators") as caught:
        qpc.quantize(foreign(), [X])
    assert "qpc.import_quantized(gm)" in (caught.value.fix or "")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what it imports
def test_a_model_of_torchao_keeps_its_weights() -> None:
    pytest.importorskip("torchao")
    steps = importlib.import_module("torchao.quantization.pt2e.quantize_pt2e")
    x86 = importlib.import_module("torchao.quantization.pt2e.quantizer.x86_inductor_quantizer")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3))
    x = torch.randn(4, 3, 8, 8)
    exported = torch.export.export(model.eval(), (x,)).module()
    quantizer = x86.X86InductorQuantizer()
    quantizer.set_global(x86.get_default_x86_inductor_quantization_config())
    prepared = steps.prepare_pt2e(exported, quantizer)
    prepared(x)
    converted = steps.convert_pt2e(prepared)
    integer = qpc.import_quantized(qpc.trace(converted, x), ctx=PassContext(thorough=True))
    stored = [b for b in integer.buffers() if b.dtype is torch.int8]
    frozen = [b for name, b in converted.named_buffers() if name.startswith("_frozen_param")]
    assert all(torch.equal(a, b) for a, b in zip(stored, frozen, strict=True))
    assert torch.allclose(integer(x), converted(x), atol=1e-2)

"""The plan of a compilation prints, the same everywhere, before and after saving."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

pytest.importorskip("tvm_ffi", reason="Apache TVM is not installed")

import qpc
from qpc.backends import reference, tvm
from qpc.backends.common.plan import FunctionPlan, Place, Plan, Step
from qpc.backends.tvm.runtime.model import CompiledModel
from qpc.testing import traced
from tests.conftest import Golden
from tests.generators import IntegerGraph

pytestmark = pytest.mark.tvm


class Residual(nn.Module):
    """One of each: padding, an addition, a concat, a table, pooling and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2)
        self.inner = nn.Conv2d(8, 8, 3, padding=1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(nn.functional.pad(x, (0, 1, 0, 1))))
        x = torch.relu(self.inner(x) + x)
        x = torch.cat([x, nn.functional.silu(self.depthwise(x))], 1)
        result: Tensor = self.head(x.mean((2, 3)))
        return result


@pytest.fixture(scope="module")
def compiled() -> CompiledModel:
    torch.manual_seed(0)
    images = torch.randn(4, 3, 12, 12)
    gm = qpc.quantize(traced(Residual().eval(), images), [images])
    return tvm.compile_graph(gm, "x86-64", batch_sizes=(1, 2))


@pytest.mark.thorough
def test_the_plan_of_a_small_network_prints(compiled: CompiledModel, golden: Golden) -> None:
    golden("compilation_plan", str(compiled.plan))


def test_a_loaded_model_has_its_plan(compiled: CompiledModel, tmp_path: Path) -> None:
    compiled.save(tmp_path / "model")
    assert tvm.load(tmp_path / "model").plan == compiled.plan


def test_memory_of_one_step_does_not_overlap(compiled: CompiledModel) -> None:
    for function in compiled.plan.functions.values():
        for step in function.steps:
            places = {*step.reads, *step.writes, *filter(None, [step.scratch])}
            inside = [place for place in places if place.kind == "arena"]
            assert all(0 <= p.start <= p.start + p.size <= function.arena for p in inside)
            inside.sort(key=lambda place: place.start)
            for before, after in pairwise(inside):
                assert before.start + before.size <= after.start


def test_the_reference_backend_says_that_it_plans_nothing() -> None:
    g = IntegerGraph()
    plan = reference.compile_graph(g.module(g.quantize(g.input(3)))).plan
    assert plan.functions == {}
    assert str(plan) == "the reference backend plans nothing: PyTorch runs the graph node by node"


def test_a_step_says_what_it_does_how_and_where() -> None:
    step = Step(
        "qpc_conv2d_0123456789ab",
        ("a", "b"),
        skipped=0.5,
        method="vectors 4x2",
        time=1234.5,
        notes=("pads for c",),
        reads=(Place("input", 0, 10), Place("weight", 3, 5000)),
        writes=(Place("arena", 64, 10),),
        scratch=Place("arena", 128, 20),
    )
    text = str(Plan("for a target", {1: FunctionPlan((step,), 192)}))
    assert text.splitlines() == [
        "for a target",
        "batch size 1: 1 steps, arena 192 bytes",
        "   1 conv2d: a + b",
        "       vectors 4x2, estimated at 1,234 instructions",
        "       skips 50% of the multiplications, whose weights are zero",
        "       pads for c",
        "       input 0, 5,000 bytes of constants -> arena 64..74, scratch arena 128..148",
    ]

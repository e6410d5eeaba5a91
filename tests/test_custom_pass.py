"""A package outside of QPC defines a pass, a rule and a fact with public names alone."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

import qpc
from qpc.errors import InvariantError, PipelineOrderError
from qpc.testing import check_pass, traced
from tests.public_names import private_names

PACKAGE = Path(__file__).parent / "data" / "sample_passes"
X = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def sample(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(PACKAGE)
    return importlib.import_module("sample_passes")


class Scaled(nn.Module):
    def __init__(self, *, bias: bool = True) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 3, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.fc(x) * 2.5)


class Shared(Scaled):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc(x)
        return y * 2.5 + y


def test_the_package_uses_public_names_alone() -> None:
    assert private_names(PACKAGE) == set()


@pytest.mark.parametrize("bias", [True, False])
def test_the_pass_runs_and_is_tested_with_the_public_harness(
    sample: ModuleType, bias: bool
) -> None:
    end = ", @fc.bias" if bias else ""
    check_pass(
        sample.FoldScales(),
        traced(Scaled(bias=bias), X),
        X,
        before=f"""
            graph:
              %x: f32[N, 3] = input
              %linear: f32[N, 3] = aten.linear(%x, @fc.weight{end})  # fc
              %mul: f32[N, 3] = aten.mul.Tensor(%linear, 2.5)
              %relu: f32[N, 3] = aten.relu(%mul)
              return %relu
        """,
        after=f"""
            graph:
              %x: f32[N, 3] = input
              %linear: f32[N, 3] = aten.linear(%x, @fc.weight{end})  # fc
              %relu: f32[N, 3] = aten.relu(%linear)
              return %relu
        """,
    )


def test_its_declines_are_reported(sample: ModuleType) -> None:
    check_pass(
        sample.FoldScales(),
        traced(Shared(), X),
        X,
        declines=["mul: fc (linear) is read by 2 nodes"],
    )


def test_its_options_matter(sample: ModuleType) -> None:
    check_pass(
        sample.FoldScales(largest=2.0),
        traced(Scaled(), X),
        X,
        declines=["mul: the factor 2.5 is larger than 2.0"],
    )


def test_its_facts_are_checked_like_qpcs_own(sample: ModuleType) -> None:
    gm = traced(Scaled(), X)
    qpc.Pipeline((sample.FoldScales(), sample.RequireScaleFree())).run(gm)
    with pytest.raises(
        InvariantError, match="fact 'scale-free' does not hold: mul multiplies by a number"
    ):
        qpc.Pipeline((sample.RequireScaleFree(),)).run(gm)


def test_its_facts_order_pipelines_like_qpcs_own(sample: ModuleType) -> None:
    with pytest.raises(PipelineOrderError, match="requires scale-free"):
        qpc.Pipeline((sample.CountLayers(),))
    gm, ctx = traced(Scaled(), X), qpc.PassContext()
    passes = (sample.FoldScales(), sample.RequireScaleFree(), sample.CountLayers())
    qpc.Pipeline(passes).run(gm, ctx)
    assert ctx.reports[-1].summary == "1 linear layers"


def test_it_joins_a_pipeline_with_qpcs_passes(sample: ModuleType) -> None:
    ctx = qpc.PassContext()
    result = qpc.quantize(qpc.Pipeline((sample.FoldScales(),)).run(traced(Scaled(), X), ctx), [X])
    assert "qpc.linear" in qpc.format_graph(result)
    assert [str(r) for r in ctx.reports[0].changes] == ["mul: folded 2.5 into fc (linear)"]

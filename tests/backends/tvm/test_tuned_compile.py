from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.fx import GraphModule

pytest.importorskip("tvm")

from qpc.backends import tvm
from qpc.backends.tvm import tuned_compile
from qpc.backends.tvm.kernels.conv.tiling import Tile
from qpc.errors import BackendError
from tests.quantizing import Parts, fake_quantized, integer

pytestmark = pytest.mark.tvm


@pytest.fixture(scope="module")
def graph() -> GraphModule:
    model = Parts(lambda m, x: m.conv(x).relu(), conv=nn.Conv2d(3, 32, 3))
    return integer(fake_quantized(model, torch.randn(2, 3, 10, 10)))


@pytest.mark.parametrize("faster", [True, False])
def test_the_tiles_are_taken_if_the_whole_model_is_faster(
    graph: GraphModule, faster: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = tvm.compile_graph(graph)
    kernel = plain.report.kernels[1].kernel
    monkeypatch.setattr(tuned_compile, "better_tiles", lambda *_, **__: {kernel: Tile(3, 1)})
    monkeypatch.setattr(tuned_compile, "is_faster", lambda *_: faster)
    tuned = tvm.compile_graph(graph, tune=True)
    assert (tuned.report.kernels[1].kernel != kernel) is faster
    x = torch.randn(1, 3, 10, 10)
    assert torch.equal(tuned(x), plain(x))


def test_nothing_better_is_the_plain_model(
    graph: GraphModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []

    def nothing(*_: Any, **options: Any) -> dict[str, Tile]:
        asked.append(options)
        return {}

    monkeypatch.setattr(tuned_compile, "better_tiles", nothing)
    tvm.compile_graph(graph, tune=7, batch_sizes=(2, 1), threads=2, cache=False)
    assert asked == [{"batch": 2, "threads": 2, "seconds": 7.0, "cache": False}]
    tvm.compile_graph(graph)
    assert len(asked) == 1


def test_a_wrong_time_is_refused_before_anything_is_compiled(graph: GraphModule) -> None:
    with pytest.raises(BackendError, match="tune must be a positive number"):
        tvm.compile_graph(graph, tune=-1)


def test_a_wrong_cache_is_refused_before_anything_is_compiled(graph: GraphModule) -> None:
    with pytest.raises(BackendError, match="cache must be a bool or the path of a folder, got b"):
        tvm.compile_graph(graph, cache=b"folder")  # type: ignore[arg-type]  # wrong on purpose

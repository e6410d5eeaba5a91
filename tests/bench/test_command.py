from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.fx import GraphModule

import qpc
from qpc.bench.command import run
from qpc.bench.request import Request, installed_peers
from qpc.errors import ArtifactError, BackendError
from tests.quantizing import Parts, fake_quantized, integer

pytestmark = pytest.mark.tvm
NAMES = {
    "onnxruntime": "ONNX Runtime",
    "openvino": "OpenVINO",
    "litert": "LiteRT",
    "torch": "PyTorch float32",
}


def fake() -> GraphModule:
    model = Parts(lambda m, x: m.conv(x).relu(), conv=nn.Conv2d(3, 8, 3))
    return fake_quantized(model, torch.randn(2, 3, 8, 8))


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("graph") / "small"
    qpc.save_graph(integer(fake()), path)
    return path


@pytest.fixture(scope="module")
def compiled(graph: Path) -> Path:
    path = graph.parent / "compiled"
    qpc.compile(qpc.load_graph(graph)).save(path)
    return path


@pytest.mark.thorough
def test_a_saved_graph_is_compared_with_all_that_is_installed(graph: Path) -> None:
    answer = run(Request(graph, rounds=1, batch=2))
    assert [peer["name"] for peer in answer.data["peers"]] == [
        NAMES[name] for name in installed_peers()
    ]
    assert (answer.data["batch"], answer.data["differing"]) == (2, 0)
    assert answer.text.startswith("small: int8, batch 2, 1 thread(s)")


def test_a_fake_quantized_graph_is_converted_first(tmp_path: Path) -> None:
    qpc.save_graph(fake(), tmp_path / "fake")
    assert run(Request(tmp_path / "fake", rounds=1, peers=[])).data["differing"] == 0


def test_a_model_is_called_as_it_is_asked_for(graph: Path) -> None:
    assert run(Request(graph, rounds=1, peers=[])).data["network"] == "small"
    answer = run(Request(graph, rounds=1, peers=[], name="net"))
    assert (answer.data["network"], answer.text.partition(":")[0]) == ("net", "net")


def test_a_compiled_model_alone_is_timed(compiled: Path) -> None:
    answer = run(Request(compiled, rounds=3))
    assert answer.data["median_ms"] > 0
    assert answer.notes == ("other runtimes need the graph: pass its folder with --graph",)


def test_a_compiled_model_is_compared_if_its_graph_is_given(graph: Path, compiled: Path) -> None:
    assert run(Request(compiled, graph, rounds=1, peers=[])).data["differing"] == 0


def test_a_peer_that_fails_is_named(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failed: tuple[list[str], dict[str, str]] = ([], {"openvino": "crashes with SIGSEGV"})
    monkeypatch.setattr("qpc.bench.command.usable_peers", lambda *_: failed)
    answer = run(Request(graph, rounds=1, peers=["openvino"]))
    assert answer.notes == ("openvino cannot run this model: crashes with SIGSEGV",)


def test_without_any_other_runtime_it_says_so(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qpc.bench.command.installed_peers", list)
    answer = run(Request(graph, rounds=1))
    assert answer.notes == (
        "no other runtime is installed: pip install 'quantize-prune-compiler[bench]'",
    )


def test_a_folder_that_holds_neither_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="neither a saved graph nor a compiled model"):
        run(Request(tmp_path))


def test_a_graph_of_another_model_is_refused(compiled: Path, tmp_path: Path) -> None:
    model = Parts(lambda m, x: m.conv(x), conv=nn.Conv2d(3, 5, 3))
    qpc.save_graph(integer(fake_quantized(model, torch.randn(2, 3, 9, 9))), tmp_path / "other")
    with pytest.raises(BackendError, match=r"compiled' was not made from the graph in '.*other'"):
        run(Request(compiled, tmp_path / "other"))


def test_a_float_graph_is_refused(tmp_path: Path) -> None:
    qpc.save_graph(qpc.trace(nn.Linear(3, 2), torch.randn(2, 3)), tmp_path / "float")
    with pytest.raises(BackendError, match="is not quantized"):
        run(Request(tmp_path / "float"))


def test_what_does_not_fit_the_compiled_model_is_refused(compiled: Path) -> None:
    with pytest.raises(BackendError, match=r"compiled for 1 thread\(s\), not 2"):
        run(Request(compiled, threads=2))
    with pytest.raises(BackendError, match="takes batches of 1, not 4"):
        run(Request(compiled, batch=4))

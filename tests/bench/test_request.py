from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from qpc.backends.tvm import compat
from qpc.bench import request as module
from qpc.bench.request import RUNTIMES, Request, check_peers, installed_peers
from qpc.errors import ArtifactError, BackendError, MissingDependencyError

pytestmark = pytest.mark.tvm


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    (tmp_path / "graph").mkdir()
    (tmp_path / "graph/graph.json").touch()
    return tmp_path / "graph"


@pytest.fixture
def compiled(tmp_path: Path) -> Path:
    (tmp_path / "compiled").mkdir()
    (tmp_path / "compiled/manifest.json").touch()
    return tmp_path / "compiled"


def test_what_can_be_done_is_done(graph: Path, compiled: Path) -> None:
    for request in (Request(graph), Request(compiled), Request(compiled, graph)):
        request.check()


def test_nothing_heavy_is_imported_to_say_that_a_path_is_wrong() -> None:
    code = """
import sys
from pathlib import Path
from qpc.bench.request import Request
try:
    Request(Path("nowhere")).check()
except Exception as error:
    print(type(error).__name__, *{"torch", "tvm", "numpy"} & set(sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["ArtifactError"]


def test_says_what_is_wrong_with_a_path(tmp_path: Path, compiled: Path) -> None:
    with pytest.raises(ArtifactError, match=r"'.*' holds neither a saved graph nor a compiled"):
        Request(tmp_path).check()
    with pytest.raises(ArtifactError, match=r"'.*none' does not exist and holds neither"):
        Request(tmp_path / "none").check()
    (tmp_path / "net.py").touch()
    with pytest.raises(ArtifactError, match=r"'.*net.py' is no folder and holds neither"):
        Request(tmp_path / "net.py").check()
    with pytest.raises(ArtifactError, match=r"'.*none' does not exist and holds no saved graph"):
        Request(compiled, tmp_path / "none").check()


def test_other_runtimes_need_the_graph_of_a_compiled_model(compiled: Path) -> None:
    with pytest.raises(BackendError, match="cannot run a compiled model: torch") as caught:
        Request(compiled, peers=["torch"]).check()
    assert caught.value.fix == "pass the graph that it was made from: --graph FOLDER"


def test_a_graph_of_a_graph_is_refused(graph: Path) -> None:
    with pytest.raises(BackendError, match="is a graph itself: it needs no other one"):
        Request(graph, graph).check()


def test_without_tvm_it_says_what_to_install(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise MissingDependencyError("apache-tvm is not installed", fix=compat._INSTALL)

    monkeypatch.setattr(module, "check_versions", missing)
    with pytest.raises(MissingDependencyError, match="apache-tvm is not installed") as caught:
        Request(graph).check()
    assert caught.value.fix == "pip install 'quantize-prune-compiler[tvm]'"


def test_unknown_and_missing_runtimes_are_named(
    compiled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(BackendError, match="unknown runtime 'mnn'") as caught:
        Request(compiled, peers=["mnn"]).check()
    assert caught.value.fix == "use one of: onnxruntime, openvino, litert, torch"
    with pytest.raises(BackendError, match="unknown runtime 'onnx-runtime'") as caught:
        check_peers(["onnx-runtime"])
    assert caught.value.fix is not None
    assert caught.value.fix.startswith("'onnxruntime' may be meant; else use one of: ")
    for name, near in (("TFLite", "litert"), ("ort", "onnxruntime"), ("pytorch", "torch")):
        with pytest.raises(BackendError, match="unknown runtime") as other:
            check_peers([name])
        assert str(other.value.fix).startswith(f"{near!r} may be meant")
    for name in ("tensorrt", "TensorRT", "tensort"):
        with pytest.raises(BackendError, match="unknown runtime") as elsewhere:
            check_peers([name])
        assert str(elsewhere.value.fix).startswith("`qpc export --form onnx-tensorrt` writes a")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match="openvino is not installed"):
        check_peers(["openvino"])
    with pytest.raises(MissingDependencyError, match="ai-edge-litert is not installed") as lacking:
        check_peers(["litert"])
    assert lacking.value.fix == "pip install 'quantize-prune-compiler[litert]' ai-edge-litert"
    assert installed_peers() == []


def test_the_installed_runtimes_are_some_of_the_known() -> None:
    assert set(installed_peers()) <= set(RUNTIMES)

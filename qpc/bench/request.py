"""What is asked of `qpc bench`, and what can be said of it before the heavy imports."""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from qpc.backends.tvm.compat import check_versions
from qpc.errors import ArtifactError, BackendError, MissingDependencyError
from qpc.installing import install_line

RUNTIMES: Mapping[str, tuple[str, ...]] = {
    "onnxruntime": ("onnxruntime", "onnx"),
    "openvino": ("openvino", "onnx"),
    "litert": ("ai_edge_litert", "flatbuffers"),
    "torch": ("torch", "onnx"),
}
"""Other runtimes, which `qpc.bench.peers` runs, and the packages that each needs."""

_ALSO_CALLED = {
    **dict.fromkeys(("onnx", "ort", "onnx-runtime"), "onnxruntime"),
    **dict.fromkeys(("tflite", "lite-rt", "tensorflow-lite"), "litert"),
    "ov": "openvino",
    "pytorch": "torch",
}
_NOT_RUN = {"tensorrt": "`qpc export --form onnx-tensorrt` writes a file for it"}
"""What people ask for and nothing here runs, and what there is in its place."""


@dataclass(frozen=True)
class Request:
    """One measurement.

    model: folder of a saved compiled model or of a saved quantized graph.
    graph: the saved graph that a compiled model was made from, without which other runtimes have
    nothing to run.
    threads: None for as many as the compiled model was made for, or one.
    peers: other runtimes; None for all that are installed.
    instances: how many copies run side by side to count samples in a second.
    name: what the model is called; like its folder, if nothing is said.
    """

    model: Path
    graph: Path | None = None
    threads: int | None = None
    batch: int = 1
    rounds: int = 50
    peers: Sequence[str] | None = None
    instances: int = 1
    name: str = ""

    def check(self) -> None:
        """Raise for what cannot be done.

        ArtifactError for paths that hold nothing to measure, BackendError for what does not fit
        together, MissingDependencyError without TVM or a runtime that is asked for.
        """
        check_versions()
        if self.peers is not None:
            check_peers(self.peers)
        alone = not holds_graph(self.model)
        if alone and not (self.model / "manifest.json").is_file():
            raise ArtifactError(
                f"{_about(self.model)} holds neither a saved graph nor a compiled model",
                fix="pass a folder that qpc.save_graph or .save(path) of a compiled model wrote",
            )
        if self.graph is None:
            if alone and self.peers:
                raise BackendError(
                    f"other runtimes cannot run a compiled model: {', '.join(self.peers)}",
                    fix="pass the graph that it was made from: --graph FOLDER",
                )
            return
        if not alone:
            raise BackendError(
                f"{str(self.model)!r} is a graph itself: it needs no other one",
                fix="leave --graph out, or pass the compiled model in its place",
            )
        if not holds_graph(self.graph):
            raise ArtifactError(
                f"{_about(self.graph)} holds no saved graph",
                fix="pass a folder that qpc.save_graph wrote",
            )


def holds_graph(path: Path) -> bool:
    """Whether a folder looks like a saved graph."""
    return (path / "graph.json").is_file()


def installed_peers() -> list[str]:
    """Names of the runtimes that are installed and that a model can be handed to."""
    return [
        name
        for name, packages in RUNTIMES.items()
        if all(importlib.util.find_spec(package) is not None for package in packages)
    ]


def check_peers(names: Sequence[str]) -> None:
    """Raise for a runtime that is unknown or not installed."""
    for name in names:
        if name not in RUNTIMES:
            raise BackendError(f"unknown runtime {name!r}", fix=_meant(name))
        for package in RUNTIMES[name]:
            if importlib.util.find_spec(package) is None:
                missing = package.replace("_", "-")
                raise MissingDependencyError(f"{missing} is not installed", fix=_install(name))


def _meant(name: str) -> str:
    """What to do about a runtime that nobody knows."""
    known = f"use one of: {', '.join(RUNTIMES)}"
    plain = name.strip().lower()
    close = difflib.get_close_matches(plain, (*RUNTIMES, *_ALSO_CALLED, *_NOT_RUN), n=1)
    if not close:
        return known
    if close[0] in _NOT_RUN:
        return f"{_NOT_RUN[close[0]]}; {known}"
    return f"{_ALSO_CALLED.get(close[0], close[0])!r} may be meant; else {known}"


def _install(name: str) -> str:
    """What brings the packages of a runtime."""
    return f"{install_line('litert')} ai-edge-litert" if name == "litert" else install_line("bench")


def _about(path: Path) -> str:
    """The path, and what may be wrong with it."""
    if not path.exists():
        return f"{str(path)!r} does not exist and"
    if not path.is_dir():
        return f"{str(path)!r} is no folder and"
    return repr(str(path))

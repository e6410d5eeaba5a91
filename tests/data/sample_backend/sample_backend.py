"""A backend outside of QPC: it runs graphs with PyTorch, and saves them as graphs."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

import qpc
from qpc.backends.compiled import CallableModel, signature_of
from qpc.errors import ArtifactError
from qpc.facts import CORE_FORM
from qpc.passes import RemoveIdentities
from qpc.registry import op_name


class EagerModel(CallableModel):
    """A graph, called as compiled models are."""

    def __init__(self, gm: GraphModule, options: qpc.CompileOptions) -> None:
        super().__init__(signature_of(gm, options.batch_sizes))
        self.graph = gm

    def run_tensors(self, batch: int, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        """The output of the graph."""
        with torch.no_grad():
            return [self.graph(*inputs)]

    def save(self, path: Path) -> None:
        """Write the graph, and a manifest that says who opens it."""
        qpc.save_graph(self.graph, path / "graph")
        about = {"backend": "eager", "batch_sizes": list(self.batch_sizes)}
        (path / "manifest.json").write_text(json.dumps(about), encoding="utf-8")


@dataclass(frozen=True)
class EagerBackend:
    """The backend `eager`."""

    name: str = "eager"
    requires: frozenset[qpc.Fact] = frozenset({CORE_FORM})
    preparation: tuple[qpc.Pass, ...] = (RemoveIdentities(),)

    def supports(self, node: Node) -> str | None:
        """Whether an operator can be run."""
        return "it is random" if op_name(node) == "rand" else None

    def compile(
        self, gm: GraphModule, target: qpc.Target | str, options: qpc.CompileOptions
    ) -> EagerModel:
        """Take the graph as it is."""
        return EagerModel(gm, options)

    def load(self, path: str | os.PathLike[str]) -> EagerModel:
        """Read what `save` wrote."""
        about = json.loads((Path(path) / "manifest.json").read_text(encoding="utf-8"))
        if "batch_sizes" not in about:
            raise ArtifactError(f"{str(path)!r} is damaged: it names no batch sizes")
        options = qpc.CompileOptions(tuple(about["batch_sizes"]))
        return EagerModel(qpc.load_graph(Path(path) / "graph"), options)


BACKEND = EagerBackend()

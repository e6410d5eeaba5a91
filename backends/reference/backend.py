"""PyTorch as a backend: what `qpc.compile` and `qpc.load` ask of it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import NoReturn

from torch.fx import GraphModule, Node

from qpc.backends.options import CompileOptions
from qpc.backends.reference.model import ReferenceModel, compile_graph
from qpc.base import Pass
from qpc.errors import ArtifactError
from qpc.facts import CORE_FORM, Fact
from qpc.targets import Target


@dataclass(frozen=True)
class ReferenceBackend:
    """PyTorch, on any core-form graph; see `qpc.backends.protocol.Backend`."""

    name: str = "reference"
    requires: frozenset[Fact] = frozenset({CORE_FORM})
    preparation: tuple[Pass, ...] = ()

    def supports(self, node: Node) -> str | None:
        """None: PyTorch runs every operator of a core-form graph."""
        return None

    def compile(
        self, gm: GraphModule, target: Target | str, options: CompileOptions
    ) -> ReferenceModel:
        """See `compile_graph`; there is nothing to choose but the batch sizes."""
        return compile_graph(gm, batch_sizes=options.batch_sizes)

    def load(self, path: str | os.PathLike[str]) -> NoReturn:
        """Raise ArtifactError: what it compiles is the graph, which `qpc.save_graph` saves."""
        raise ArtifactError(
            f"{str(path)!r} cannot be loaded: the reference backend saves no models",
            fix="save the graph with qpc.save_graph, and load it with qpc.load_graph",
        )


BACKEND = ReferenceBackend()

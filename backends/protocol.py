"""What a backend is: a door between graphs and what runs them.

    class Interpreter:
        \"\"\"Runs graphs with PyTorch, and says so.\"\"\"

        name = "interpreter"
        requires = frozenset({CORE_FORM})
        preparation = ()

        def supports(self, node: Node) -> str | None:
            return None

        def compile(
            self, gm: GraphModule, target: Target | str, options: CompileOptions
        ) -> CallableModel: ...

        def load(self, path: str | os.PathLike[str]) -> CallableModel: ...

    qpc.register_backend(Interpreter())

Packages name theirs in the entry-point group `qpc.backends`, as `name = "package.module:object"`;
see `qpc.backends.registry`.
"""

from __future__ import annotations

import os
from collections.abc import Set as AbstractSet
from typing import Protocol, runtime_checkable

from torch.fx import GraphModule, Node

from qpc.backends.compiled import CallableModel
from qpc.backends.options import CompileOptions
from qpc.base import Pass
from qpc.facts import Fact
from qpc.targets import Target


@runtime_checkable
class Backend(Protocol):
    """What `qpc.compile` and `qpc.load` ask of a backend."""

    @property
    def name(self) -> str:
        """The name that users type, and that saved models carry: kebab-case."""

    @property
    def requires(self) -> AbstractSet[Fact]:
        """Facts that must hold for a graph; they are checked before anything else is done."""

    @property
    def preparation(self) -> tuple[Pass, ...]:
        """Passes that a copy of the graph goes through before it is compiled."""

    def supports(self, node: Node) -> str | None:
        """None if the backend can run the operator that `node` calls, else the reason why not."""

    def compile(
        self, gm: GraphModule, target: Target | str, options: CompileOptions
    ) -> CallableModel:
        """Return a graph, for which all of `requires` holds, as a compiled model.

        The graph must not be changed. Models that can be saved have a method `save(path)`; what it
        writes is a folder whose `manifest.json` has the backend's name as its entry "backend".
        Raises BackendError for what cannot be compiled.
        """

    def load(self, path: str | os.PathLike[str]) -> CallableModel:
        """Return the model that was saved to the folder `path`. Raises ArtifactError."""

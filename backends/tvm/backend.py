"""TVM as a backend: what `qpc.compile` and `qpc.load` ask of it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch.fx import GraphModule, Node

from qpc.backends.options import CompileOptions
from qpc.backends.tvm.compat import require_tvm
from qpc.base import Pass
from qpc.facts import CORE_FORM, FINISHED, Fact
from qpc.targets import Target

if TYPE_CHECKING:  # TVM is imported when it is needed
    from qpc.backends.tvm.runtime.model import CompiledModel


@dataclass(frozen=True)
class TvmBackend:
    """Machine code by TVM, from kernels of our own; see `qpc.backends.protocol.Backend`."""

    name: str = "tvm"
    requires: frozenset[Fact] = frozenset({CORE_FORM, FINISHED})
    preparation: tuple[Pass, ...] = ()

    def supports(self, node: Node) -> str | None:
        """None if the operator that `node` calls can be compiled, else the reason why not."""
        require_tvm()
        from qpc.backends.tvm.lowering.supports import why_not

        return why_not(node)

    def compile(
        self, gm: GraphModule, target: Target | str, options: CompileOptions
    ) -> CompiledModel:
        """See `qpc.backends.tvm.compile_graph`."""
        require_tvm()
        from qpc.backends.tvm import tuned_compile

        return tuned_compile.compile_graph(gm, target, options)

    def load(self, path: str | os.PathLike[str]) -> CompiledModel:
        """See `qpc.backends.tvm.load`."""
        from qpc.backends.tvm.runtime import artifact

        return artifact.load(path)


BACKEND = TvmBackend()

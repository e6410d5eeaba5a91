"""A model compiled by TVM."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from qpc.backends.compiled import CallableModel, Signature
from qpc.backends.tvm.build import Code
from qpc.backends.tvm.lower import LoweredFunction
from qpc.backends.tvm.program import Program
from qpc.backends.tvm.report import Report
from qpc.errors import UnsupportedTargetError
from qpc.target import Target


@dataclass(frozen=True)
class Parts:
    """Everything that makes a compiled model, and all that is saved of it."""

    signature: Signature
    target: Target
    threads: int
    code: Code
    functions: Mapping[int, LoweredFunction]
    weights: Mapping[str, Tensor]
    report: Report


class CompiledModel(CallableModel):
    """Machine code for one model; call it with torch tensors or numpy arrays.

    Several threads may call the same model: calls wait for each other.
    """

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts.signature)
        self._parts = parts
        self._program: Program | None = None
        if parts.target.runs_here() is None:
            self._program = Program(parts.code, parts.functions, parts.weights, parts.threads)

    @property
    def target(self) -> Target:
        """What the code was made for."""
        return self._parts.target

    @property
    def threads(self) -> int:
        """How many threads a call uses."""
        return self._parts.threads

    @property
    def report(self) -> Report:
        """What the compiler did."""
        return self._parts.report

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model to the folder `path`, which must not exist or hold a saved model.

        Raises ArtifactError if that is not possible; then nothing is left behind.
        """
        from qpc.backends.tvm.artifact import save

        save(self._parts, path)

    def _run(self, batch: int, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        if self._program is None:
            raise UnsupportedTargetError(
                f"cannot run code for {self.target.name!r}: {self.target.runs_here()}",
                fix="run it on such a machine, or compile for target='native'",
            )
        return self._program.run(batch, inputs)

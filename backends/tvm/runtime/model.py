"""A model compiled by TVM."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from qpc.backends.common.plan import FunctionPlan, Plan
from qpc.backends.compiled import Array, CallableModel, Signature
from qpc.backends.profile import Profile
from qpc.backends.tvm.report import Report
from qpc.backends.tvm.runtime.code import Code
from qpc.backends.tvm.runtime.lend import lend
from qpc.backends.tvm.runtime.tensors import TensorProgram, array_type
from qpc.errors import BackendError, UnsupportedTargetError
from qpc.modes import ordinary_torch
from qpc.runtime.arrays import Stored
from qpc.runtime.program import Loaded, Program
from qpc.runtime.signature import ArraySignature
from qpc.runtime.vectors import Replayed, Vector, replay
from qpc.targets import Target


@dataclass(frozen=True)
class Parts:
    """Everything that makes a compiled model, and all that is saved of it.

    weights: these move to the model that is made of the parts, if it can run here.
    vectors: what the graph gives for some inputs, if it could be run.
    """

    signature: Signature
    target: Target
    threads: int
    code: Code
    weights: MutableMapping[str, Stored]
    report: Report
    vectors: tuple[Vector, ...] = ()

    @property
    def array_signature(self) -> ArraySignature:
        """The signature without PyTorch."""
        known = self.signature
        inputs = {b: tuple(map(array_type, types)) for b, types in known.inputs.items()}
        return ArraySignature(known.names, inputs, known.outputs)

    def loaded(self) -> Loaded:
        """Its code and weights, ready to run; this takes the weights."""
        entries = {batch: entry.entry for batch, entry in self.code.entries.items()}
        inputs = self.array_signature.inputs
        return Loaded.of(self.code.library, entries, inputs, self.weights, lend)


class CompiledModel(CallableModel):
    """Machine code for one model; call it with torch tensors or numpy arrays.

    Several threads may call the same model: calls wait for each other. Clones do not wait. In a
    forked process the model works as before, on memory of its own.
    """

    def __init__(self, parts: Parts, loaded: Loaded | None = None) -> None:
        """loaded: the code and weights of the parts, if another model has loaded them."""
        super().__init__(parts.signature)
        if loaded is None and parts.target.runs_here() is None:
            loaded = parts.loaded()
        self._parts = parts if loaded is None else replace(parts, weights=loaded.weights)
        self._program = None if loaded is None else TensorProgram(loaded, parts.threads)

    def __repr__(self) -> str:
        return f"<compiled model for {self.target.name}, takes {self._parts.array_signature}>"

    @property
    def target(self) -> Target:
        """What the code was made for."""
        return self._parts.target

    @property
    def threads(self) -> int:
        """How many threads a call may use."""
        return self._parts.threads

    @property
    def report(self) -> Report:
        """What the compiler did."""
        return self._parts.report

    @property
    def plan(self) -> Plan:
        """What runs in which order, how, and in which memory; loaded models have it, too."""
        threads = f"{self.threads} thread{'s' * (self.threads > 1)}"
        entries = self._parts.code.entries
        functions = {batch: FunctionPlan(e.steps, e.arena) for batch, e in entries.items()}
        return Plan(f"for {self.target.name}, {threads}", functions)

    @ordinary_torch()
    def clone(self) -> CompiledModel:
        """The same model, to be called at the same time: by another thread of a server, say.

        Code and weights are shared. A clone has its own memory for activations, and its own threads
        if it uses any.
        """
        return CompiledModel(self._parts, None if self._program is None else self._program.loaded)

    def __copy__(self) -> CompiledModel:
        return self.clone()

    def __deepcopy__(self, memo: Mapping[int, object]) -> CompiledModel:
        return self.clone()  # nothing of what they share ever changes

    @ordinary_torch()
    def __reduce__(self) -> tuple[Callable[..., CompiledModel], tuple[Mapping[str, bytes]]]:
        """A pickle holds the files of the saved model, and is checked as they are."""
        from qpc.backends.tvm import unpickled
        from qpc.backends.tvm.runtime.artifact import encode

        return unpickled, (encode(self._parts),)

    @ordinary_torch()
    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model to the folder `path`, which must not exist or hold a saved model.

        Raises ArtifactError if that is not possible; then nothing is left behind.
        """
        from qpc.backends.tvm.runtime.artifact import save

        save(self._parts, path)

    @ordinary_torch()
    def verify(self) -> Replayed:
        """Replay the test vectors that the model keeps, which the graph answered in PyTorch.

        Outputs that depend on integer operators only must be equal in every byte, wherever the
        model runs; others may differ by what float operators round.

        Raises BackendError if it keeps none, or the code cannot run here.
        """
        program = Program(self._runnable().loaded, self.threads)
        return replay(self._parts.vectors, program.loaded.inputs, program.run_arrays)

    def profile(
        self, inputs: Array | Sequence[Array] | None = None, *, repeats: int = 20
    ) -> Profile:
        """Time every kernel where it stands, on random inputs of the first batch size unless given.

        The result prints as a table; it says for every kernel how long it runs, what it does, which
        layers it comes from, and whether arithmetic, memory or the call itself limits it. The times
        are medians over `repeats` rounds. Loaded models can be profiled, too.

        Raises ValueError for fewer than one round, and BackendError for inputs that do not fit or
        code that cannot run here.
        """
        from qpc.backends.tvm.measure.profiler import profile

        if repeats < 1:
            raise ValueError(f"repeats must be at least 1, got {repeats}")
        if self.target.counter is None:
            raise BackendError(
                f"target {self.target.name!r} has no counter of time, so kernels cannot be timed",
                fix="compiled.benchmark() measures whole calls",
            )
        batch, tensors = self._checked(inputs)
        entry = self._parts.code.entries[batch]
        if len(entry.steps) != entry.count:
            raise BackendError(
                "the steps of the model are described in a way that this version does not know",
                fix="compile and save the model again",
            )
        return profile(
            self._runnable(),
            entry.steps,
            tensors,
            target=self.target,
            batch=batch,
            threads=self.threads,
            repeats=repeats,
        )

    def run_tensors(self, batch: int, inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        return self._runnable().run(batch, inputs)

    def run_plain(self, inputs: Sequence[Array]) -> Sequence[Array] | None:
        return None if self._program is None else self._program.run_plain(inputs)

    def _runnable(self) -> TensorProgram:
        if self._program is None:
            raise UnsupportedTargetError(
                f"cannot run code for {self.target.name!r}: {self.target.runs_here()}",
                fix="run it on such a machine, or compile for target='native'",
            )
        return self._program

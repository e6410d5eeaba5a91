"""A compiled model for numpy arrays."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from qpc import documents
from qpc.documents import COMPILED_MODEL
from qpc.errors import ArtifactError, BackendError
from qpc.runtime.arrays import Array, ArrayType
from qpc.runtime.artifact import Saved, decode, encode
from qpc.runtime.inputs import plain_array
from qpc.runtime.program import Loaded, Program
from qpc.runtime.signature import nest
from qpc.runtime.vectors import Replayed, replay


def load(path: str | os.PathLike[str]) -> Model:
    """The compiled model in the folder `path`, which `compiled.save(path)` wrote.

    Everything is checked before any of it is used. The checks find damage, not intent: a compiled
    model is a program, so load only what you trust.

    Raises ArtifactError if the folder is not a saved model, is damaged or incomplete, has an ABI
    number that this version does not know, is for another CPU, or needs TVM; BackendError if its
    threads cannot be started.
    """
    return _loaded(documents.read(path, COMPILED_MODEL), repr(str(path)))


def unpickled(files: Mapping[str, bytes]) -> Model:
    """What pickles of models call: the model in the files that `.save` would write."""
    return _loaded(files, "a pickle")


def _loaded(files: Mapping[str, bytes], where: str) -> Model:
    saved = decode(files, where)
    del files  # the weights are there, in one piece with the file
    manifest = saved.manifest
    try:
        loaded = Loaded.of(
            saved.library, manifest.entries, manifest.signature.inputs, saved.weights
        )
    except BackendError as e:
        raise ArtifactError(f"{where} cannot be loaded: {e.what}", fix=e.fix) from e
    return Model(replace(saved, weights=loaded.weights), loaded)


class Model:
    """Machine code for one model; call it with numpy arrays.

    Several threads may call the same model: calls wait for each other. Clones do not wait. In a
    forked process the model works as before, on memory of its own.
    """

    def __init__(self, saved: Saved, loaded: Loaded) -> None:
        """`load` makes one; loaded: the code and weights of what was saved."""
        self._saved, self._loaded = saved, loaded
        self._signature = saved.manifest.signature
        self._program = Program(loaded, saved.manifest.threads)

    @property
    def input_names(self) -> tuple[str, ...]:
        """The names of the inputs, in order."""
        return self._signature.names

    @property
    def batch_sizes(self) -> tuple[int, ...]:
        """The batch sizes that the model takes."""
        return self._signature.batch_sizes

    def input_types(self, batch: int) -> tuple[ArrayType, ...]:
        """Shapes and dtypes of the inputs at one of the batch sizes."""
        return self._signature.inputs[self._checked(batch)]

    def output_types(self, batch: int) -> tuple[ArrayType, ...]:
        """Shapes and dtypes of the distinct outputs at one of the batch sizes, not nested."""
        return self._saved.manifest.entries[self._checked(batch)].outputs

    @property
    def threads(self) -> int:
        """How many threads a call may use."""
        return self._saved.manifest.threads

    @property
    def target(self) -> str:
        """The name of what the code was made for."""
        return self._saved.manifest.target.name

    @property
    def versions(self) -> Mapping[str, str]:
        """The versions of the packages that made it; nothing depends on them."""
        found = self._saved.about.get("versions")
        return {str(k): str(v) for k, v in found.items()} if isinstance(found, dict) else {}

    def __call__(self, *inputs: Array, **named: Array) -> Any:
        """Run the model on numpy arrays, given by position or by name.

        Outputs are nested as the model nests them. Values of dtypes that numpy does not have, such
        as bfloat16, are taken and given as their bits, in unsigned integers. Arrays that are not
        contiguous are copied.

        Raises BackendError if a shape, a dtype or the number of inputs is not what the model was
        compiled for.
        """
        if named or (results := self._program.run_arrays(inputs)) is None:
            given = self._signature.ordered(inputs, named)
            names = self._signature.names_of(given)
            arrays = [plain_array(value, name) for value, name in zip(given, names, strict=False)]
            self._signature.batch_of(arrays)
            results = self._program.run_arrays(arrays)
            assert results is not None, "inputs that were checked"
        return nest(self._signature.outputs, results)

    def verify(self) -> Replayed:
        """Replay the test vectors that the model keeps, which its graph answered in PyTorch.

        Outputs that depend on integer operators only must be equal in every byte, wherever the
        model runs; others may differ by what float operators round.

        Raises BackendError if it keeps none.
        """
        manifest = self._saved.manifest
        return replay(manifest.vectors, manifest.signature.inputs, self._program.run_arrays)

    def clone(self) -> Model:
        """The same model, to be called at the same time: by another thread of a server, say.

        Code and weights are shared. A clone has its own memory for activations, and its own threads
        if it uses any.
        """
        return Model(self._saved, self._loaded)

    def __copy__(self) -> Model:
        return self.clone()

    def __deepcopy__(self, memo: Mapping[int, object]) -> Model:
        return self.clone()  # nothing of what they share ever changes

    def __reduce__(self) -> tuple[Callable[..., Model], tuple[Mapping[str, bytes]]]:
        """A pickle holds the files of the saved model, and is checked as they are."""
        return unpickled, (self._files(),)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model to the folder `path`, which must not exist or hold a saved model.

        Raises ArtifactError if that is not possible; then nothing is left behind.
        """
        documents.write(path, self._files(), COMPILED_MODEL)

    def __repr__(self) -> str:
        return f"<compiled model for {self.target}, takes {self._signature}>"

    def _checked(self, batch: int) -> int:
        if batch not in self._signature.inputs:
            known = " or ".join(map(str, self.batch_sizes))
            raise BackendError(
                f"the model takes batches of {known}, not of {batch!r}",
                fix="compile for other batch sizes with batch_sizes=(...)",
            )
        return batch

    def _files(self) -> dict[str, bytes]:
        return encode(self._saved.about, self._saved.library, self._saved.weights)

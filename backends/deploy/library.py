"""A deployable as a library of machine code, in a folder with all that belongs to it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from qpc import documents
from qpc.backends.deploy import elf
from qpc.backends.deploy.archive import archive
from qpc.backends.deploy.deployable import Deployable, raw_bytes
from qpc.backends.deploy.header import header
from qpc.backends.deploy.manifest import DOCUMENT, library_kind, manifest
from qpc.backends.deploy.merge import Merged, constants, merge
from qpc.backends.deploy.parallel import default, samples
from qpc.backends.deploy.report import Footprint, check_board, footprint, report_text
from qpc.backends.deploy.sample import MAIN, VECTORS, cmake_file, main_program, vectors_file
from qpc.backends.deploy.shared import shared_library
from qpc.errors import BackendError

_PLAIN = frozenset({"memcpy", "memmove", "memset"})
_LINE, _WORD = 64, 8  # bytes to which constants are aligned, with caches and without
_FOREIGN = ("TVM", "__TVM", "tvm")


@dataclass(frozen=True)
class ExportedLibrary:
    """What was written to a folder. needs: functions that a program must have besides."""

    folder: Path
    name: str
    footprint: Footprint
    needs: tuple[str, ...]
    report: str

    def __str__(self) -> str:
        return self.report


def write_objects(
    model: Deployable, objects: Sequence[bytes], path: str | os.PathLike[str]
) -> ExportedLibrary:
    """Write the library of a model whose code is in object files to the folder `path`.

    Raises BackendError if the board has not the memory or the code needs what no program has, and
    ArtifactError if the folder cannot be written; then nothing is.
    """
    return write_merged(model, _merged(model, objects), path)


def write_merged(
    model: Deployable,
    merged: Merged,
    path: str | os.PathLike[str],
    *,
    instruction_sets: Sequence[str] = (),
) -> ExportedLibrary:
    """Write the library whose code and constants are one object.

    instruction_sets: the targets that it holds the code of, if there are several. Raises as
    `write_objects` does.
    """
    _refuse_foreign(merged)
    needs = footprint(model, merged.code, merged.constants)
    library = f"lib{model.name}.a"
    files = {library: archive({f"{model.name}.o": merged.made})}
    shared = shared_library(model, merged.made, files[library])
    if isinstance(shared, bytes):
        files[f"lib{model.name}.so"] = shared
    else:
        model = replace(model, notes=(*model.notes, f"no shared library: {shared}"))
    sources = []
    if model.threads > 1:
        files |= {file: text.encode() for file, text in samples(model).items()}
        sources = [default(model.target)]
    return write_library(
        model,
        files,
        needs,
        merged.needed,
        library,
        path,
        sources=sources,
        instruction_sets=instruction_sets,
    )


def write_library(
    model: Deployable,
    files: Mapping[str, bytes],
    needs: Footprint,
    needed: Sequence[str],
    library: str,
    path: str | os.PathLike[str],
    *,
    form: str = "objects",
    sources: Sequence[str] = (),
    instruction_sets: Sequence[str] = (),
) -> ExportedLibrary:
    """Write the files of a form of a model, and those that are the same for all forms."""
    check_board(model, needs)
    report = report_text(model, needs)
    texts = {
        f"{model.name}.h": header(model),
        MAIN: main_program(model),
        "CMakeLists.txt": cmake_file(model, library, sources),
        "report.txt": report,
    }
    whole = dict(files) | {name: text.encode() for name, text in texts.items()}
    whole[VECTORS] = vectors_file(model)
    document = manifest(
        model,
        needs,
        needed,
        library,
        whole,
        form=form,
        sources=sources,
        instruction_sets=instruction_sets,
    )
    documents.write(path, {DOCUMENT: document, **whole}, library_kind(sorted(whole)))
    return ExportedLibrary(Path(path), model.name, needs, tuple(needed), report)


def _merged(model: Deployable, objects: Sequence[bytes]) -> Merged:
    parts = [elf.read(raw) for raw in objects]
    align = _LINE if model.target.architecture.system == "Linux" else _WORD
    tensors = {name: raw_bytes(array) for name, array in model.weights.items()}
    return merge([*parts, constants(parts[0], tensors, align)], (model.run,))


def _refuse_foreign(merged: Merged) -> None:
    """Raise BackendError for code that needs what programs do not have."""
    foreign = [name for name in merged.needed if name.startswith(_FOREIGN)]
    if foreign:
        raise BackendError(
            f"the code needs functions of TVM: {', '.join(foreign)}",
            fix="express the operators that need them with others",
        )

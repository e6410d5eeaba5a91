"""What an exported library says about itself: `library.json`, sealed by its own hash.

library.json    this
<name>.h        what C programs include
lib<name>.a     the library; or in other forms, other files
main.c          replays the test vectors
vectors.bin     inputs, and the outputs that they must give
CMakeLists.txt  builds the two
report.txt      flash, memory, and what each layer costs
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt, ValidationError

from qpc import documents
from qpc.backends.deploy.abi import ARENA_ALIGNMENT, ERRORS
from qpc.documents import Kind, damaged, described, seal
from qpc.settings import first_problem
from qpc.targets.form import encode_target
from qpc.version import VERSION

if TYPE_CHECKING:  # whoever reads a manifest needs neither PyTorch nor TVM
    from qpc.backends.deploy.deployable import Deployable, Port
    from qpc.backends.deploy.report import Footprint

DOCUMENT = "library.json"
OBJECTS = "objects"
"""The form of a library that is machine code."""


def library_kind(files: Sequence[str]) -> Kind:
    """The kind of folder that holds an exported library of these files."""
    return Kind(
        "an exported library",
        DOCUMENT,
        tuple(files),
        "qpc-library",
        1,
        "qpc verify",
        "export the library again",
        "copy the folder again, or export the library again",
    )


class _Closed(BaseModel):
    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True, frozen=True)


class PortEntry(_Closed):
    """An input or output."""

    name: str
    dtype: str
    shape: list[NonNegativeInt]
    bytes: NonNegativeInt
    scale: float | None
    zero_point: int | None
    tolerance: float | None


class LibraryEntry(_Closed):
    """What `library.json` holds; the hashes of the files are checked apart."""

    format: str
    format_version: int
    qpc: str
    name: str
    form: str
    target: dict[str, Any]
    settings: dict[str, Any]
    function: str
    errors: dict[str, int]
    arena_bytes: NonNegativeInt
    arena_alignment: PositiveInt
    inputs: list[PortEntry]
    outputs: list[PortEntry]
    needs: list[str]
    cases: PositiveInt
    footprint: dict[str, Any]
    sources: list[str]
    library: str
    files: dict[str, dict[str, Any]]
    sha256: str

    @property
    def bytes_of_a_case(self) -> int:
        """Of one test vector."""
        return sum(port.bytes for port in (*self.inputs, *self.outputs))


def manifest(
    model: Deployable,
    needs: Footprint,
    needed: Sequence[str],
    library: str,
    files: Mapping[str, bytes],
    *,
    form: str = OBJECTS,
    sources: Sequence[str] = (),
    instruction_sets: Sequence[str] = (),
) -> bytes:
    """The content of `library.json` for a model and its other files.

    needed: functions that the program must have. library: the file that programs link. sources:
    what the sample program is built from besides `main.c`. instruction_sets: the targets whose code
    is in the library, if there are several.
    """
    kind = library_kind(sorted(files))
    settings: dict[str, object] = {"batch": model.entry.batch, "threads": model.threads}
    if instruction_sets:
        settings["instruction_sets"] = list(instruction_sets)
    return seal(
        {
            "format": kind.mark,
            "format_version": kind.version,
            "qpc": VERSION,
            "name": model.name,
            "form": form,
            "target": encode_target(model.target),
            "settings": settings,
            "function": model.run,
            "errors": {name: number for name, (number, _) in ERRORS.items()},
            "arena_bytes": model.entry.arena,
            "arena_alignment": ARENA_ALIGNMENT,
            "inputs": [_port(port) for port in model.inputs],
            "outputs": [_port(port) for port in model.outputs],
            "needs": list(needed),
            "cases": len(model.cases),
            "footprint": asdict(needs),
            "sources": list(sources),
            "library": library,
            "files": described({name: files[name] for name in sorted(files)}),
        }
    )


def read_library(path: str | os.PathLike[str]) -> tuple[LibraryEntry, dict[str, bytes]]:
    """The manifest of an exported library and its files, all as they were written.

    Raises ArtifactError if they are not.
    """
    where = repr(str(path))
    names = documents.declared_files(path, library_kind(()))
    kind = library_kind(names)
    content = documents.read(path, kind)
    entry = _validated(documents.verified(content, kind, where), where)
    return entry, content


def _validated(document: Mapping[str, Any], where: str) -> LibraryEntry:
    """The document, all of it checked. Raises ArtifactError for what no export wrote."""
    try:
        return LibraryEntry.model_validate(dict(document))
    except ValidationError as e:
        fix = library_kind(()).damaged
        raise damaged(f"{DOCUMENT} of {where}", first_problem(e)[:300], fix) from e


def _port(port: Port) -> dict[str, Any]:
    return {
        "name": port.name,
        "dtype": port.dtype,
        "shape": list(port.shape),
        "bytes": port.bytes,
        "scale": port.scale,
        "zero_point": port.zero_point,
        "tolerance": port.tolerance,
    }

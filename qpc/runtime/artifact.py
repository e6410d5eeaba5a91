"""Saved models: a folder with a manifest, weights and a shared library.

    manifest.json         what this is, for which CPU; what the library's entry points take and
                          give; hashes of the other files; what the compiler did
    weights.safetensors   all constant tensors, see `qpc.runtime.compact`
    kernels.so            machine code

The manifest also holds a hash of itself. Loading reads every file once and checks all of this
before it uses any of it: machine code from a damaged file would crash the process, not raise.
Which versions can load what is said in `qpc.runtime.abi`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qpc import documents
from qpc.documents import COMPILED_MODEL
from qpc.errors import ArtifactError, UnsupportedTargetError
from qpc.runtime import abi, safetensors
from qpc.runtime.arrays import Stored
from qpc.runtime.compact import compact, spread
from qpc.runtime.manifest import Manifest, decoded, interface
from qpc.runtime.seal import is_sealed

MANIFEST = COMPILED_MODEL.document
_WEIGHTS, _LIBRARY = COMPILED_MODEL.files
_OF_FILES = ("places", "files", "sha256")


@dataclass(frozen=True)
class Saved:
    """What the files of a compiled model hold, all of it checked.

    about: the manifest, but for what is about the files themselves.
    """

    about: Mapping[str, Any]
    manifest: Manifest
    library: bytes
    weights: dict[str, Stored]


def header() -> dict[str, Any]:
    """How a manifest begins: what it is, and which readers know it."""
    return {
        "format": COMPILED_MODEL.mark,
        "format_version": COMPILED_MODEL.version,
        "backend": "tvm",
        "abi": abi.ABI,
    }


def encode(
    about: Mapping[str, Any], library: bytes, weights: Mapping[str, Stored]
) -> dict[str, bytes]:
    """The files of a compiled model, by name."""
    saved, places = compact(weights)
    files = {_WEIGHTS: safetensors.write(saved), _LIBRARY: library}
    document = {**about, "places": places, "files": documents.described(files)}
    return {MANIFEST: documents.seal(document), **files}


def decode(content: Mapping[str, bytes], where: str) -> Saved:
    """What is in the files of a compiled model; `where` is what errors call it.

    Raises ArtifactError if they are not what `encode` gave, for an ABI and a CPU like this.
    """
    document = documents.verified(content, COMPILED_MODEL, where)
    _check_abi(document, where)
    shown = f"{MANIFEST} of {where}"
    try:
        manifest = decoded(document)
        _check_machine(manifest)
    except UnsupportedTargetError as e:
        raise _elsewhere(where, document, e.what) from e
    except ValueError as e:
        raise documents.damaged(shown, str(e)[:500], COMPILED_MODEL.damaged) from e
    fix = COMPILED_MODEL.damaged
    saved = safetensors.read(content[_WEIGHTS], f"{_WEIGHTS} of {where}", fix)
    try:
        weights = spread(saved, manifest.places)
    except ValueError as e:
        raise documents.damaged(shown, str(e)[:500], fix) from e
    if not is_sealed(content[_LIBRARY], interface(document, weights)):
        why = f"{_LIBRARY} was made for other inputs, outputs, weights or memory"
        raise documents.damaged(shown, why, fix)
    if missing := _missing(manifest, weights):
        raise documents.damaged(shown, f"it names weights that are not there: {missing}", fix)
    about = {name: value for name, value in document.items() if name not in _OF_FILES}
    return Saved(about, manifest, content[_LIBRARY], weights)


def _missing(manifest: Manifest, weights: Mapping[str, Stored]) -> str:
    named = {name for entry in manifest.entries.values() for name in entry.weights}
    return ", ".join(sorted(name[:40] for name in named - weights.keys())[:3])


def _check_abi(document: Mapping[str, Any], where: str) -> None:
    found = document.get("abi")
    if type(found) is int and found in abi.READ:
        return
    newer = type(found) is int and found > abi.ABI
    shown = (
        f"the ABI number {found}" if type(found) is int and abs(found) < 10**6 else "no ABI number"
    )
    known = ", ".join(map(str, sorted(abi.READ)))
    raise ArtifactError(
        f"{where} has {shown}, this version of QPC knows {known}",
        fix="install a newer QPC, or compile it with this one"
        if newer
        else COMPILED_MODEL.outdated,
    )


def _check_machine(manifest: Manifest) -> None:
    if (reason := manifest.target.runs_here()) is not None:
        raise UnsupportedTargetError(reason)


def _elsewhere(where: str, document: Mapping[str, Any], reason: str) -> ArtifactError:
    target = document["target"]
    name = target.get("name") if isinstance(target, dict) else None
    shown = repr(name) if isinstance(name, str) and len(name) <= 100 else "another machine"
    return ArtifactError(
        f"{where} was compiled for {shown}: {reason}",
        fix="compile it for this machine with target='native'",
    )

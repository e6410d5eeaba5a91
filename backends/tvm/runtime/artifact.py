"""Saved models: a folder with a manifest, weights and a shared library.

    manifest.json         what this is, by which versions, for which CPU; what the library's entry
                          points take and give; hashes of the other files
    weights.safetensors   all constant tensors, see compact.py
    kernels.so            machine code

The manifest also holds a hash of itself. Loading reads every file once and checks all of this
before it uses any of it: machine code from a damaged file would crash the process, not raise.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import safetensors.torch

from qpc import documents
from qpc.backends.tvm.codegen.build import Code
from qpc.backends.tvm.compat import FFI_VERSION, TVM_VERSION
from qpc.backends.tvm.runtime.compact import compact, spread
from qpc.backends.tvm.runtime.manifest import (
    Manifest,
    encode_entry,
    encode_signature,
    interface,
    validated,
)
from qpc.backends.tvm.runtime.model import CompiledModel, Parts
from qpc.backends.tvm.runtime.seal import is_sealed
from qpc.documents import COMPILED_MODEL
from qpc.errors import ArtifactError, UnsupportedTargetError
from qpc.targets import Target
from qpc.targets.form import decode_target, encode_target
from qpc.version import VERSION

MANIFEST = COMPILED_MODEL.document
_WEIGHTS, _LIBRARY = COMPILED_MODEL.files


def save(parts: Parts, path: str | os.PathLike[str]) -> None:
    """Write a compiled model to the folder `path`, all of it or nothing."""
    documents.write(path, encode(parts), COMPILED_MODEL)


def load(path: str | os.PathLike[str]) -> CompiledModel:
    """Check and load the model in the folder `path`."""
    return CompiledModel(decode(documents.read(path, COMPILED_MODEL), repr(str(path))))


def from_files(content: Mapping[str, bytes]) -> CompiledModel:
    """The compiled model in the files that `encode` gave, which a pickle holds."""
    return CompiledModel(decode(content, "a pickle"))


def encode(parts: Parts) -> dict[str, bytes]:
    """The files of a compiled model, by name."""
    weights, places = compact(parts.weights)
    files = {_WEIGHTS: safetensors.torch.save(weights), _LIBRARY: parts.code.library}
    return {MANIFEST: documents.seal(_manifest(parts, places, files)), **files}


def decode(content: Mapping[str, bytes], where: str) -> Parts:
    """The parts of the compiled model in some files; `where` is what errors call it.

    Raises ArtifactError if they are not what `encode` gave, for this version and a CPU like this.
    """
    document = documents.verified(content, COMPILED_MODEL, where)
    _check_versions(document.get("versions"), where)
    try:
        manifest = validated(document)
        target = _target(manifest, where)
        parts = _parts(manifest, target, content)
    except ArtifactError:
        raise
    except Exception as e:  # whatever pydantic and safetensors say is about the file
        raise documents.damaged(
            f"{MANIFEST} of {where}", str(e)[:500], COMPILED_MODEL.damaged
        ) from e
    return parts


# --- writing --------------------------------------------------------------------------------------


def _manifest(
    parts: Parts, places: Mapping[str, int], files: Mapping[str, bytes]
) -> dict[str, Any]:
    return {
        "format": COMPILED_MODEL.mark,
        "format_version": COMPILED_MODEL.version,
        "backend": "tvm",
        "versions": _versions(),
        "target": encode_target(parts.target, costs=False),
        "threads": parts.threads,
        "signature": encode_signature(parts.signature),
        "entries": {str(b): encode_entry(entry) for b, entry in parts.code.entries.items()},
        "places": dict(places),
        "report": parts.report.to_json(),
        "files": documents.described(files),
    }


def _versions() -> dict[str, str]:
    return {"qpc": VERSION, "apache-tvm": TVM_VERSION, "apache-tvm-ffi": FFI_VERSION}


# --- reading --------------------------------------------------------------------------------------


def _target(manifest: Manifest, where: str) -> Target:
    """The target, if its code runs here."""
    try:
        target = decode_target(manifest.target)
        reason = target.runs_here()
    except UnsupportedTargetError as e:
        reason = e.what
    if reason is not None:
        raise ArtifactError(
            f"{where} was compiled for {manifest.target['name']!r}: {reason}",
            fix="compile it for this machine with target='native'",
        )
    return target


def _parts(manifest: Manifest, target: Target, content: Mapping[str, bytes]) -> Parts:
    signature, entries = manifest.decoded_signature(), manifest.decoded_entries()
    library = content[_LIBRARY]
    weights = spread(safetensors.torch.load(content[_WEIGHTS]), manifest.places)
    if not is_sealed(library, interface(signature, manifest.threads, entries, weights)):
        raise ValueError(f"{_LIBRARY} was made for other inputs, outputs, weights or memory")
    code = Code(library, entries)
    return Parts(signature, target, manifest.threads, code, weights, manifest.report.decoded())


def _check_versions(versions: object, where: str) -> None:
    for package, wanted in _versions().items():
        found = versions.get(package) if isinstance(versions, dict) else None
        if found != wanted:
            raise ArtifactError(
                f"{where} was saved with {package} {found}, this is {package} {wanted}",
                fix=f"{COMPILED_MODEL.outdated}, or install {package}=={found}",
            )

"""Saved models with what only QPC reads of them; see `qpc.runtime.artifact` for the rest."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from qpc import documents
from qpc.backends.compiled import Signature
from qpc.backends.tvm.compat import FFI_VERSION, TVM_VERSION
from qpc.backends.tvm.runtime.code import Code, EntryPoint
from qpc.backends.tvm.runtime.model import CompiledModel, Parts
from qpc.backends.tvm.runtime.tensors import tensor_type
from qpc.backends.tvm.runtime.told import decode_plans, decode_report, encode_plans
from qpc.documents import COMPILED_MODEL
from qpc.runtime import artifact
from qpc.runtime.manifest import encode_entry, encode_signature, interface
from qpc.runtime.seal import sealed
from qpc.runtime.signature import ArraySignature
from qpc.runtime.vectors import encode_vectors
from qpc.targets.form import encode_target
from qpc.version import VERSION


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
    now = sealed_parts(parts)  # one that was loaded may bear an older ABI number
    return artifact.encode(_about(now), now.code.library, now.weights)


def decode(content: Mapping[str, bytes], where: str) -> Parts:
    """The parts of the compiled model in some files; `where` is what errors call it.

    Raises ArtifactError if they are not what `encode` gave, for an ABI and a CPU like this.
    """
    saved = artifact.decode(content, where)
    manifest = saved.manifest
    counts = {batch: entry.steps for batch, entry in manifest.entries.items()}
    plans = decode_plans(saved.about.get("plans"), counts)
    entries = {
        batch: EntryPoint(
            entry.name,
            entry.weights,
            tuple(map(tensor_type, entry.outputs)),
            entry.arena,
            plans[batch],
            entry.steps,
        )
        for batch, entry in manifest.entries.items()
    }
    return Parts(
        _signature(manifest.signature),
        manifest.target,
        manifest.threads,
        Code(saved.library, entries),
        saved.weights,
        decode_report(saved.about.get("report")),
        manifest.vectors,
    )


def sealed_parts(parts: Parts) -> Parts:
    """The parts with a library that knows what it was made for."""
    about = interface(_about(parts), parts.weights)
    code = replace(parts.code, library=sealed(parts.code.library, about))
    return replace(parts, code=code)


def _about(parts: Parts) -> dict[str, Any]:
    entries = parts.code.entries
    return {
        **artifact.header(),
        "versions": {"qpc": VERSION, "apache-tvm": TVM_VERSION, "apache-tvm-ffi": FFI_VERSION},
        "target": encode_target(parts.target, costs=False),
        "threads": parts.threads,
        "signature": encode_signature(parts.array_signature),
        "entries": {str(batch): encode_entry(e.entry) for batch, e in entries.items()},
        "report": parts.report.to_json(),
        "plans": encode_plans({batch: e.steps for batch, e in entries.items()}),
        "vectors": encode_vectors(parts.vectors),
    }


def _signature(signature: ArraySignature) -> Signature:
    inputs = {b: tuple(map(tensor_type, types)) for b, types in signature.inputs.items()}
    return Signature(signature.names, inputs, signature.outputs)

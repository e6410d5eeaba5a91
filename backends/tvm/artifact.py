"""Saved models: a folder with a manifest, weights, bytecode and a shared library.

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
from dataclasses import asdict
from typing import Any

import safetensors.torch
import torch

from qpc import documents
from qpc.backends.compiled import Signature
from qpc.backends.tvm._compat import FFI_VERSION, TVM_VERSION
from qpc.backends.tvm.build import Code, EntryPoint
from qpc.backends.tvm.compact import compact, spread
from qpc.backends.tvm.model import CompiledModel, Parts
from qpc.backends.tvm.report import KernelUse, Report
from qpc.documents import COMPILED_MODEL
from qpc.errors import ArtifactError
from qpc.shapes import TensorType, dtype_name
from qpc.target import Target
from qpc.version import VERSION

MANIFEST = COMPILED_MODEL.document
_WEIGHTS, _LIBRARY = COMPILED_MODEL.files


def save(parts: Parts, path: str | os.PathLike[str]) -> None:
    """Write a compiled model to the folder `path`, all of it or nothing."""
    documents.write(path, encode(parts), COMPILED_MODEL)


def load(path: str | os.PathLike[str]) -> CompiledModel:
    """Check and load the model in the folder `path`."""
    return CompiledModel(decode(documents.read(path, COMPILED_MODEL), repr(str(path))))


def encode(parts: Parts) -> dict[str, bytes]:
    """The files of a compiled model, by name."""
    weights, places = compact(parts.weights)
    files = {_WEIGHTS: safetensors.torch.save(weights), _LIBRARY: parts.code.library}
    return {MANIFEST: documents.seal(_manifest(parts, places, files)), **files}


def decode(content: Mapping[str, bytes], where: str) -> Parts:
    """The parts of the compiled model in some files; `where` is what errors call it.

    Raises ArtifactError if they are not what `encode` gave, for this version and a CPU like this.
    """
    manifest = documents.verified(content, COMPILED_MODEL, where)
    try:
        return _checked_parts(content, manifest, where)
    except (KeyError, TypeError, ValueError, AttributeError) as e:
        raise documents.damaged(
            f"{MANIFEST} of {where}",
            f"it has a wrong or missing entry ({e})",
            COMPILED_MODEL.damaged,
        ) from e


# --- writing --------------------------------------------------------------------------------------


def _manifest(
    parts: Parts, places: Mapping[str, int], files: Mapping[str, bytes]
) -> dict[str, Any]:
    target = parts.target
    return {
        "format": COMPILED_MODEL.mark,
        "format_version": COMPILED_MODEL.version,
        "versions": _versions(),
        "target": {
            "name": target.name,
            "triple": target.triple,
            "features": list(target.features),
            "tuning": list(target.tuning),
            "vector_lanes": target.vector_lanes,
            "isa": target.isa,
        },
        "threads": parts.threads,
        "signature": _encode_signature(parts.signature),
        "entries": {str(b): _encode_entry(entry) for b, entry in parts.code.entries.items()},
        "places": dict(places),
        "report": parts.report.to_json(),
        "files": documents.described(files),
    }


def _versions() -> dict[str, str]:
    return {"qpc": VERSION, "apache-tvm": TVM_VERSION, "apache-tvm-ffi": FFI_VERSION}


def _encode_signature(signature: Signature) -> dict[str, Any]:
    inputs = {
        str(batch): [_encode_type(t) for t in types] for batch, types in signature.inputs.items()
    }
    return {"names": list(signature.names), "inputs": inputs, "outputs": signature.outputs}


def _encode_entry(entry: EntryPoint) -> dict[str, Any]:
    return asdict(entry) | {"outputs": [_encode_type(t) for t in entry.outputs]}


def _encode_type(tensor: TensorType) -> dict[str, Any]:
    return {"shape": list(tensor.shape), "dtype": dtype_name(tensor.dtype)}


# --- reading --------------------------------------------------------------------------------------


def _checked_parts(content: Mapping[str, bytes], manifest: Mapping[str, Any], where: str) -> Parts:
    _check_versions(manifest, where)
    target = _checked_target(manifest, where)
    entries = {int(batch): _decode_entry(e) for batch, e in manifest["entries"].items()}
    return Parts(
        signature=_decode_signature(manifest["signature"]),
        target=target,
        threads=manifest["threads"],
        code=Code(content[_LIBRARY], entries),
        weights=spread(safetensors.torch.load(content[_WEIGHTS]), manifest["places"]),
        report=Report.from_json(manifest["report"]),
    )


def _check_versions(manifest: Mapping[str, Any], where: str) -> None:
    for package, wanted in _versions().items():
        found = manifest["versions"].get(package)
        if found != wanted:
            raise ArtifactError(
                f"{where} was saved with {package} {found}, this is {package} {wanted}",
                fix=f"{COMPILED_MODEL.outdated}, or install {package}=={found}",
            )


def _checked_target(manifest: Mapping[str, Any], where: str) -> Target:
    data = manifest["target"]
    lists = {key: tuple(data[key]) for key in ("features", "tuning")}
    target = Target(**(data | lists))
    reason = target.runs_here()
    if reason is not None:
        raise ArtifactError(
            f"{where} was compiled for {target.name!r}: {reason}",
            fix="compile it for this machine with target='native'",
        )
    return target


def _decode_signature(data: Mapping[str, Any]) -> Signature:
    inputs = {
        int(batch): tuple(_decode_type(t) for t in types) for batch, types in data["inputs"].items()
    }
    return Signature(tuple(data["names"]), inputs, data["outputs"])


def _decode_entry(data: Mapping[str, Any]) -> EntryPoint:
    return EntryPoint(
        data["name"],
        tuple(data["weights"]),
        tuple(_decode_type(t) for t in data["outputs"]),
        data["arena"],
        tuple(KernelUse.from_json(step) for step in data["steps"]),
    )


def _decode_type(data: Mapping[str, Any]) -> TensorType:
    return TensorType(tuple(data["shape"]), getattr(torch, data["dtype"]))

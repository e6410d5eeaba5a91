"""Saved models: a folder with a manifest, weights, bytecode and a shared library.

    manifest.json         what this is, by which versions, for which CPU; what the library's entry
                          points take and give; hashes of the other files
    weights.safetensors   all constant tensors, see compact.py
    kernels.so            machine code

The manifest also holds a hash of itself. Loading reads every file once and checks all of this
before it uses any of it: machine code from a damaged file would crash the process, not raise.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from qpc.backends.compiled import Signature
from qpc.backends.tvm._compat import FFI_VERSION, TVM_VERSION
from qpc.backends.tvm.build import Code, EntryPoint
from qpc.backends.tvm.compact import compact, spread
from qpc.backends.tvm.model import CompiledModel, Parts
from qpc.backends.tvm.report import KernelUse, Report
from qpc.errors import ArtifactError
from qpc.shapes import TensorType
from qpc.target import Target
from qpc.version import VERSION

FORMAT = "qpc-tvm-model"
FORMAT_VERSION = 4
MANIFEST = "manifest.json"
_WEIGHTS, _LIBRARY = "weights.safetensors", "kernels.so"
_FILES = (_WEIGHTS, _LIBRARY)
_SAVE_AGAIN = "compile and save the model again"


def save(parts: Parts, path: str | os.PathLike[str]) -> None:
    """Write a compiled model to the folder `path`, all of it or nothing."""
    goal = Path(path)
    _check_replaceable(goal)
    weights, places = compact(parts.weights)
    content = {_WEIGHTS: safetensors.torch.save(weights), _LIBRARY: parts.code.library}
    content[MANIFEST] = _encode(_manifest(parts, places, content))
    try:
        goal.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{goal.name}-", dir=goal.parent) as staging:
            complete, previous = Path(staging, "complete"), Path(staging, "previous")
            complete.mkdir()
            for name, data in content.items():
                _write_durably(complete / name, data)
            if goal.exists():
                goal.rename(previous)
            try:
                complete.rename(goal)
            except OSError:
                if previous.exists():
                    previous.rename(goal)
                raise
    except OSError as e:
        raise ArtifactError(
            f"cannot save to {str(goal)!r}: {e.strerror or e}",
            fix="choose a folder you may write to",
        ) from e


def load(path: str | os.PathLike[str]) -> CompiledModel:
    """Check and load the model in the folder `path`."""
    folder = Path(path)
    manifest = _read_manifest(folder)
    try:
        return CompiledModel(_checked_parts(folder, manifest))
    except (KeyError, TypeError, ValueError, AttributeError) as e:
        raise _damaged(folder, MANIFEST, f"has a wrong or missing entry ({e})") from e


# --- writing --------------------------------------------------------------------------------------


def _check_replaceable(goal: Path) -> None:
    """An earlier model may be replaced; anything else is the user's and stays."""
    if not goal.exists() and not goal.is_symlink():
        return
    if not (goal / MANIFEST).is_file():
        raise ArtifactError(
            f"{str(goal)!r} exists and is not a saved model",
            fix="choose another name, or remove it",
        )


def _write_durably(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _manifest(
    parts: Parts, places: Mapping[str, int], content: Mapping[str, bytes]
) -> dict[str, Any]:
    target = parts.target
    return {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
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
        "files": {
            name: {"sha256": _sha256(data), "bytes": len(data)} for name, data in content.items()
        },
    }


def _versions() -> dict[str, str]:
    return {"qpc": VERSION, "apache-tvm": TVM_VERSION, "apache-tvm-ffi": FFI_VERSION}


def _encode(manifest: dict[str, Any]) -> bytes:
    sealed = manifest | {"sha256": _self_hash(manifest)}
    return (json.dumps(sealed, indent=2) + "\n").encode()


def _self_hash(manifest: Mapping[str, Any]) -> str:
    """The hash of a manifest without its own hash, in one spelling."""
    rest = {k: v for k, v in manifest.items() if k != "sha256"}
    return _sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode())


def _encode_signature(signature: Signature) -> dict[str, Any]:
    inputs = {
        str(batch): [_encode_type(t) for t in types] for batch, types in signature.inputs.items()
    }
    return {"names": list(signature.names), "inputs": inputs, "outputs": signature.outputs}


def _encode_entry(entry: EntryPoint) -> dict[str, Any]:
    return asdict(entry) | {"outputs": [_encode_type(t) for t in entry.outputs]}


def _encode_type(tensor: TensorType) -> dict[str, Any]:
    return {"shape": list(tensor.shape), "dtype": _dtype_name(tensor.dtype)}


# --- reading --------------------------------------------------------------------------------------


def _read_manifest(folder: Path) -> dict[str, Any]:
    if not folder.exists():
        raise ArtifactError(f"{str(folder)!r} does not exist", fix="check the path")
    if not folder.is_dir():
        raise ArtifactError(
            f"{str(folder)!r} is not a folder", fix="a saved model is a folder: pass its path"
        )
    if not (folder / MANIFEST).is_file():
        raise ArtifactError(
            f"{str(folder)!r} is not a saved model: it has no {MANIFEST}",
            fix="pass the folder that .save(path) wrote",
        )
    try:
        manifest = json.loads(_read(folder / MANIFEST))
    except ValueError as e:
        raise _damaged(folder, MANIFEST, "is not JSON") from e
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ArtifactError(
            f"{str(folder)!r} is not a saved model: {MANIFEST} is about something else",
            fix="pass the folder that .save(path) wrote",
        )
    if manifest.get("format_version") != FORMAT_VERSION:
        found = manifest.get("format_version")
        raise ArtifactError(
            f"{str(folder)!r} has format version {found!r}, this QPC reads {FORMAT_VERSION}",
            fix=_SAVE_AGAIN,
        )
    if manifest.get("sha256") != _self_hash(manifest):
        raise _damaged(folder, MANIFEST, "does not match its own hash")
    return manifest


def _checked_parts(folder: Path, manifest: Mapping[str, Any]) -> Parts:
    _check_versions(folder, manifest)
    target = _checked_target(folder, manifest)
    content = {name: _read_checked(folder, name, manifest) for name in _FILES}
    entries = {int(batch): _decode_entry(e) for batch, e in manifest["entries"].items()}
    return Parts(
        signature=_decode_signature(manifest["signature"]),
        target=target,
        threads=manifest["threads"],
        code=Code(content[_LIBRARY], entries),
        weights=spread(safetensors.torch.load(content.pop(_WEIGHTS)), manifest["places"]),
        report=Report.from_json(manifest["report"]),
    )


def _check_versions(folder: Path, manifest: Mapping[str, Any]) -> None:
    for package, wanted in _versions().items():
        found = manifest["versions"].get(package)
        if found != wanted:
            raise ArtifactError(
                f"{str(folder)!r} was saved with {package} {found}, this is {package} {wanted}",
                fix=f"{_SAVE_AGAIN}, or install {package}=={found}",
            )


def _checked_target(folder: Path, manifest: Mapping[str, Any]) -> Target:
    data = manifest["target"]
    lists = {key: tuple(data[key]) for key in ("features", "tuning")}
    target = Target(**(data | lists))
    reason = target.runs_here()
    if reason is not None:
        raise ArtifactError(
            f"{str(folder)!r} was compiled for {target.name!r}: {reason}",
            fix="compile it for this machine with target='native'",
        )
    return target


def _read_checked(folder: Path, name: str, manifest: Mapping[str, Any]) -> bytes:
    expected = manifest["files"][name]
    if not (folder / name).is_file():
        raise _damaged(folder, name, "is missing")
    data = _read(folder / name)
    if len(data) != expected["bytes"]:
        raise _damaged(folder, name, f"has {len(data)} bytes, not {expected['bytes']}")
    if _sha256(data) != expected["sha256"]:
        raise _damaged(folder, name, "does not match its hash")
    return data


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as e:
        raise ArtifactError(f"cannot read {str(path)!r}: {e.strerror or e}") from e


def _damaged(folder: Path, name: str, how: str) -> ArtifactError:
    return ArtifactError(
        f"the model in {str(folder)!r} is damaged: {name} {how}",
        fix=f"copy the folder again, or {_SAVE_AGAIN}",
    )


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


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()

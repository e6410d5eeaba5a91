"""Documents: JSON that says what it is and carries its own hash, and the folders they stand in.

A document has one spelling, which `seal` writes and `check_seal` asks for to the last byte, so that
no damage goes unnoticed, not even of a space. Documents from anywhere may be given to `parse`: it
takes what JSON has one meaning for, within limits of size.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from qpc.errors import ArtifactError
from qpc.files import read_folder, read_regular, replace_folder
from qpc.version import VERSION

LIMIT_BYTES = 64 * 2**20
"""The largest document that is read; that of DenseNet-121, with 1,035 nodes, has 0.7 MB."""
_LIMIT_FILE = 2**36  # bytes, of a file whose size is not known
_LIMIT_VALUES = 500_000  # a node of a graph has some 20
_SEAL, _END = "sha256", b"\n}\n"


@dataclass(frozen=True)
class Kind:
    """A kind of folder that QPC writes.

    name: with its article; document: the file that says what it is; files: all others; mark: the
    document's entry "format"; version: its entry "format_version"; load: the function that reads
    it; outdated, damaged: what to do about one of another version, and about one that is damaged.
    """

    name: str
    document: str
    files: tuple[str, ...]
    mark: str
    version: int
    load: str
    outdated: str
    damaged: str

    def is_marked(self, document: Mapping[str, Any]) -> bool:
        """Whether a document is of this kind, in any version of the format."""
        found = document.get("format")
        first = self is SAVED_GRAPH and type(found) is int and found == 1  # had a number only
        return found == self.mark or first


SAVED_GRAPH = Kind(
    "a saved graph",
    "graph.json",
    ("tensors.safetensors",),
    "qpc-graph",
    2,
    "qpc.load_graph",
    "convert it: qpc.storage.convert_graph(path, new_path); a newer format needs a newer QPC",
    "copy the folder again, or save the graph again with qpc.save_graph",
)
COMPILED_MODEL = Kind(
    "a compiled model",
    "manifest.json",
    ("weights.safetensors", "kernels.so"),
    "qpc-tvm-model",
    7,
    "qpc.load",
    "compile and save the model again",
    "copy the folder again, or compile and save the model again",
)
CHECKPOINT = Kind(
    "a checkpoint",
    "checkpoint.json",
    ("graph.json", "tensors.safetensors", "state.safetensors"),
    "qpc-checkpoint",
    1,
    "qpc.training.load_checkpoint",
    "train from the beginning, or with the QPC that wrote it",
    "copy the folder again, or go on from an earlier checkpoint",
)
_KINDS = (CHECKPOINT, SAVED_GRAPH, COMPILED_MODEL)  # a checkpoint holds a saved graph


# --- documents ------------------------------------------------------------------------------------


def sha256(data: bytes) -> str:
    """The hash that all documents use, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def seal(document: Mapping[str, Any]) -> bytes:
    """The file of a document: its one spelling, with a hash of everything in it.

    Raises ValueError for what JSON cannot say, NaN and infinity among it.
    """
    text = _spelled(document)
    return text[: -len(_END)] + f',\n"{_SEAL}": "{sha256(text)}"'.encode() + _END


def parse(data: bytes, where: str, fix: str) -> dict[str, Any]:
    """The document in a file, sealed or not. `where` and `fix` are for the error.

    Raises ArtifactError if it is not JSON, has two entries of one name, numbers that are none or
    far too long, or is too large or nested too deeply.
    """
    values = sum(data.count(mark) for mark in (b",", b"[", b"{"))
    if len(data) > LIMIT_BYTES or values > _LIMIT_VALUES:
        raise damaged(where, "it is too large", fix)
    try:
        document = json.loads(
            data.decode(), object_pairs_hook=_unique, parse_constant=_refuse_constant
        )
    except RecursionError as e:
        raise damaged(where, "it is nested too deeply", fix) from e
    except ValueError as e:
        raise damaged(where, f"it is not JSON ({e})", fix) from e
    if not isinstance(document, dict):
        raise damaged(where, "it holds no JSON object", fix)
    return document


def check_seal(document: Mapping[str, Any], data: bytes, where: str, fix: str) -> None:
    """Raise ArtifactError unless `data`, which was parsed to `document`, is what `seal` wrote."""
    content = {key: value for key, value in document.items() if key != _SEAL}
    try:
        intact = seal(content) == data
    except (ValueError, RecursionError):
        intact = False
    if not intact:
        raise damaged(where, "it does not match its own hash", fix)


def damaged(where: str, why: str, fix: str) -> ArtifactError:
    """The error for a file that is not what was written."""
    return ArtifactError(f"{where} is damaged: {why}", fix=fix)


def _spelled(document: Mapping[str, Any]) -> bytes:
    """A line for each entry, and for each element of those that are lists."""
    entries = [f"{_json(key)}: {_lines(value)}" for key, value in document.items()]
    return ("{\n" + ",\n".join(entries)).encode("ascii") + _END


def _lines(value: object) -> str:
    if isinstance(value, list) and value:
        return "[\n" + ",\n".join(_json(element) for element in value) + "\n]"
    return _json(value)


_json = json.JSONEncoder(allow_nan=False).encode


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("two entries have one name")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number")


# --- folders --------------------------------------------------------------------------------------


def why_not(folder: Path, kind: Kind) -> str | None:
    """Why a folder must not be replaced by one of this kind; None if it may be.

    It may if its document bears the mark of the kind, damaged or not, and there is nothing else.
    """
    known = (kind.document, *kind.files)
    for name in sorted(os.listdir(folder)):
        if name not in known or not stat.S_ISREG(os.lstat(folder / name).st_mode):
            return f"it holds {name!r}, which is no part of {kind.name}"
    if not (folder / kind.document).exists():
        return f"it is not {kind.name}: it has no {kind.document}"
    try:
        document = parse(read_regular(folder / kind.document, LIMIT_BYTES), kind.document, "")
    except ArtifactError as e:
        return f"it is not {kind.name}: {e.what}"
    if not kind.is_marked(document):
        return f"it is not {kind.name}: {kind.document} is about something else"
    return None


def described(files: Mapping[str, bytes]) -> dict[str, dict[str, object]]:
    """The entry "files" of a document: size and hash of each."""
    return {name: {"sha256": sha256(data), "bytes": len(data)} for name, data in files.items()}


def write(path: str | os.PathLike[str], content: Mapping[str, bytes], kind: Kind) -> None:
    """Make `path` a folder of this kind, in place of an earlier one.

    Raises ArtifactError if there is something else, or it cannot be written.
    """
    replace_folder(_path(path), content, lambda there: why_not(there, kind))


def read(path: str | os.PathLike[str], kind: Kind) -> dict[str, bytes]:
    """The files of a folder of this kind, those that are there; `verified` checks them.

    Raises ArtifactError if the folder is something else, or files are larger than it says.
    """
    folder = _path(path)
    if not folder.exists():
        raise ArtifactError(f"{str(folder)!r} does not exist", fix="check the path")
    if not folder.is_dir():
        raise ArtifactError(
            f"{str(folder)!r} is not a folder", fix=f"{kind.name} is a folder: pass its path"
        )

    def others(data: bytes) -> dict[str, int]:
        document = parse(data, f"{str(folder / kind.document)!r}", kind.damaged)
        if not kind.is_marked(document):
            raise ArtifactError(
                f"{str(folder)!r} is not {kind.name}: {kind.document} is about something else",
                fix=f"pass a folder that {kind.load} can read",
            )
        files = document.get("files")
        return {name: _declared_size(files, name) for name in kind.files}

    content = read_folder(folder, kind.document, LIMIT_BYTES, others)
    if kind.document not in content:
        raise _another_kind(folder, kind)
    return content


def declared_files(path: str | os.PathLike[str], kind: Kind) -> tuple[str, ...]:
    """The names of the other files that the document in a folder lists, where kinds differ in it.

    `read` and `verified` check the rest. Raises ArtifactError if there is no such document.
    """
    content = read(path, kind)
    document = parse(content[kind.document], kind.document, kind.damaged)
    files = document.get("files")
    plain = isinstance(files, dict) and all(
        name == os.path.basename(name) and name not in ("", ".", "..") for name in files
    )
    if not isinstance(files, dict) or not plain:
        raise damaged(f"{kind.document} of {str(path)!r}", "it names no files", kind.damaged)
    return tuple(sorted(files))


def named_backend(path: str | os.PathLike[str]) -> str | None:
    """The backend that the manifest in a folder names as the one that opens it.

    None if there is no such manifest, or it names none: whoever reads it next will say what is
    wrong with it.
    """
    try:
        data = read_regular(_path(path) / COMPILED_MODEL.document, LIMIT_BYTES)
        name = parse(data, COMPILED_MODEL.document, "").get("backend")
    except ArtifactError:
        return None
    return name if isinstance(name, str) else None


def _path(path: str | os.PathLike[str]) -> Path:
    try:
        return Path(path)
    except TypeError as e:
        raise ArtifactError(f"a path is a str or a pathlib.Path, got {type(path).__name__}") from e


def _declared_size(files: object, name: str) -> int:
    entry = files.get(name) if isinstance(files, dict) else None
    size = entry.get("bytes") if isinstance(entry, dict) else None
    return size if type(size) is int and 0 <= size < _LIMIT_FILE else _LIMIT_FILE


def _another_kind(folder: Path, kind: Kind) -> ArtifactError:
    for other in _KINDS:
        if other is not kind and (folder / other.document).is_file():
            return ArtifactError(
                f"{str(folder)!r} is {other.name}, not {kind.name}", fix=f"use {other.load}"
            )
    return ArtifactError(
        f"{str(folder)!r} is not {kind.name}: it has no {kind.document}", fix="check the path"
    )


def verified(content: Mapping[str, bytes], kind: Kind, where: str) -> dict[str, Any]:
    """The document among the files of a folder, which are all as they were written.

    where: what the error calls them. Raises ArtifactError if they are not, or of another version.
    """
    data = content.get(kind.document, b"")
    document = parse(data, f"{kind.document} of {where}", kind.damaged)
    if not kind.is_marked(document):
        raise ArtifactError(
            f"{where} is not {kind.name}: {kind.document} is about something else",
            fix=f"pass what {kind.load} can read",
        )
    if document.get("format") != kind.mark or document.get("format_version") != kind.version:
        found = document.get("format_version", document.get("format"))
        raise ArtifactError(
            f"{where} was saved by {_writer(document)} in version {_short(found)} of the format, "
            f"this is QPC {VERSION}, which reads version {kind.version}",
            fix=kind.outdated,
        )
    check_seal(document, data, f"{kind.document} of {where}", kind.damaged)
    files = document.get("files")
    if not isinstance(files, dict) or files.keys() != set(kind.files):
        raise damaged(f"{kind.document} of {where}", "it names other files", kind.damaged)
    for name, entry in files.items():
        _check_file(f"{name} of {where}", content.get(name), entry, kind)
    return document


def _check_file(where: str, data: bytes | None, entry: object, kind: Kind) -> None:
    if data is None:
        raise damaged(where, "it is missing", kind.damaged)
    if entry == {"sha256": sha256(data), "bytes": len(data)}:
        return
    size = entry.get("bytes") if isinstance(entry, dict) else None
    differs = f"it has {len(data)} bytes, not {_short(size)}"
    why = "it does not match its hash" if size == len(data) else differs
    raise damaged(where, why, kind.damaged)


def _writer(document: Mapping[str, Any]) -> str:
    versions = document.get("versions")
    found = versions.get("qpc") if isinstance(versions, dict) else document.get("qpc")
    return f"QPC {_short(found)}" if isinstance(found, str) else "another version of QPC"


def _short(value: object) -> str:
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= 20 else f"{text[:20]}..."

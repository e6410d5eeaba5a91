"""The manifest of a compiled model: what of it is needed to run the model, checked by hand.

What is left alone here ("versions", "report" and "plans") tells about the model; whoever shows it
checks it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

from qpc.errors import UnsupportedTargetError
from qpc.runtime.arrays import STORAGE, ArrayType, Stored
from qpc.runtime.signature import ArraySignature, Structure
from qpc.runtime.vectors import Vector, decode_vectors
from qpc.targets import Target

T = TypeVar("T")

_DEPTH = 16  # of outputs within outputs
_MOST_BYTES = 2**40
_MOST_THREADS = 4096
_MOST_AXES = 64
_MOST_ITEMS = 2**20
_MOST_LETTERS = 10_000
_SEALED = ("abi", "threads", "signature", "entries")


@dataclass(frozen=True)
class Entry:
    """A function of the library.

    weights: names of the constant tensors that it reads; outputs: what it writes; arena: bytes of
    memory that it needs; steps: how many kernels it calls.
    """

    name: str
    weights: tuple[str, ...]
    outputs: tuple[ArrayType, ...]
    arena: int
    steps: int


@dataclass(frozen=True)
class Manifest:
    """What is needed to run a model, and to see that it runs as it must.

    places: how many places weights are to be spread to, by their names: see `qpc.runtime.compact`.
    """

    target: Target
    threads: int
    signature: ArraySignature
    entries: Mapping[int, Entry]
    places: Mapping[str, int]
    vectors: tuple[Vector, ...] = ()


def decoded(document: Mapping[str, Any]) -> Manifest:
    """The manifest, with everything in its place.

    Raises ValueError for one without sense, and UnsupportedTargetError for a CPU that is not known.
    """
    entries = _by_batch(document.get("entries"), "entries", _entry)
    signature = _signature(document.get("signature"), entries)
    outputs = {batch: len(entry.outputs) for batch, entry in entries.items()}
    return Manifest(
        _target(document.get("target"), "target"),
        _whole(document.get("threads"), "threads", 1, _MOST_THREADS),
        signature,
        entries,
        dict(_named(document.get("places"), "places", _size)),
        decode_vectors(document.get("vectors"), len(signature.names), outputs),
    )


def interface(document: Mapping[str, Any], weights: Mapping[str, Stored]) -> bytes:
    """All that callers of a library must know about it, in one spelling.

    document: the manifest, of which only what is sealed with the library matters.
    """
    about = {name: document.get(name) for name in _SEALED}
    types = {name: encode_type(tensor.type) for name, tensor in sorted(weights.items())}
    return json.dumps(about | {"weights": types}, sort_keys=True).encode()


# --- writing --------------------------------------------------------------------------------------


def encode_type(kind: ArrayType) -> dict[str, Any]:
    """Shape and dtype as JSON values."""
    return {"shape": list(kind.shape), "dtype": kind.dtype}


def encode_entry(entry: Entry) -> dict[str, Any]:
    """An entry point as JSON values."""
    return {
        "name": entry.name,
        "weights": list(entry.weights),
        "outputs": [encode_type(kind) for kind in entry.outputs],
        "arena": entry.arena,
        "steps": entry.steps,
    }


def encode_signature(signature: ArraySignature) -> dict[str, Any]:
    """A signature as JSON values."""
    inputs = {str(b): [encode_type(t) for t in types] for b, types in signature.inputs.items()}
    return {"names": list(signature.names), "inputs": inputs, "outputs": signature.outputs}


# --- reading --------------------------------------------------------------------------------------


def _entry(value: object, where: str) -> Entry:
    about = _object(value, where)
    return Entry(
        _text(about.get("name"), f"{where}.name"),
        _listed(about.get("weights"), f"{where}.weights", _text),
        _listed(about.get("outputs"), f"{where}.outputs", _type),
        _size(about.get("arena"), f"{where}.arena"),
        _size(about.get("steps"), f"{where}.steps"),
    )


def _signature(value: object, entries: Mapping[int, Entry]) -> ArraySignature:
    about = _object(value, "signature")
    names = _listed(about.get("names"), "signature.names", _text)
    inputs = _by_batch(about.get("inputs"), "signature.inputs", _types)
    if inputs.keys() != entries.keys():
        raise ValueError("entry points and inputs are of different batch sizes")
    counts = {len(entry.outputs) for entry in entries.values()}
    if len(counts) != 1:
        raise ValueError("entry points have different numbers of outputs")
    if len(set(names)) != len(names) or any(len(t) != len(names) for t in inputs.values()):
        raise ValueError("not every input has a name and a type")
    if len(set(inputs.values())) != len(inputs):
        raise ValueError("two batch sizes have the same inputs")
    outputs: Structure = about.get("outputs")
    _check_structure(outputs, counts.pop())
    return ArraySignature(names, inputs, outputs)


def _target(value: object, where: str) -> Target:
    """The target, without fields that are not known here, or say what code does not need."""
    about = _object(value, where)
    known = {field.name for field in fields(Target)} - {"costs"}
    given = {
        name: item
        for name, item in about.items()
        if name in known and not isinstance(item, dict)  # which only a compiler reads
    }
    tuples = {
        name: _listed(v, f"{where}.{name}", _text) for name, v in given.items() if _is_list(v)
    }
    try:
        return Target(**given | tuples)
    except UnsupportedTargetError:
        raise
    except TypeError as e:  # a field that it cannot do without, or values that cannot be compared
        raise ValueError(f"{where}: {e}") from e


def _type(value: object, where: str) -> ArrayType:
    about = _object(value, where)
    shape = _listed(about.get("shape"), f"{where}.shape", _size)
    dtype = _text(about.get("dtype"), f"{where}.dtype")
    if dtype not in STORAGE:
        raise ValueError(f"{where}: there is no dtype {dtype[:40]!r}")
    if len(shape) > _MOST_AXES:
        raise ValueError(f"{where}.shape: at most {_MOST_AXES} axes are possible")
    return ArrayType(shape, dtype)


def _types(value: object, where: str) -> tuple[ArrayType, ...]:
    return _listed(value, where, _type)


def _by_batch(value: object, where: str, of: Callable[[object, str], T]) -> dict[int, T]:
    found = {_batch(name, where): item for name, item in _named(value, where, of).items()}
    if not found:
        raise ValueError(f"{where}: at least one batch size is needed")
    return found


def _batch(key: str, where: str) -> int:
    if not re.fullmatch(r"[1-9][0-9]{0,8}", key):
        raise ValueError(f"{where}: {key[:40]!r} is no batch size")
    return int(key)


def _named(value: object, where: str, of: Callable[[object, str], T]) -> dict[str, T]:
    return {name: of(item, f"{where}.{name[:40]}") for name, item in _object(value, where).items()}


def _object(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(  # noqa: TRY004  # it is about a file
            f"{where}: it must be an object, got {_short(value)}"
        )
    return value


def _is_list(value: object) -> bool:
    return isinstance(value, list)


def _listed(value: object, where: str, of: Callable[[object, str], T]) -> tuple[T, ...]:
    if not isinstance(value, list) or len(value) > _MOST_ITEMS:
        raise ValueError(f"{where}: it must be a list, got {_short(value)}")
    return tuple(of(item, f"{where}[{number}]") for number, item in enumerate(value))


def _text(value: object, where: str) -> str:
    if not isinstance(value, str) or len(value) > _MOST_LETTERS:
        raise ValueError(f"{where}: it must be a text, got {_short(value)}")
    return value


def _size(value: object, where: str) -> int:
    return _whole(value, where, 0, _MOST_BYTES)


def _whole(value: object, where: str, least: int, most: int) -> int:
    if type(value) is not int or not least <= value <= most:
        raise ValueError(
            f"{where}: it must be a whole number from {least} to {most}, got {_short(value)}"
        )
    return value


def _short(value: object) -> str:
    if value is None:
        return "nothing"
    return f"a {type(value).__name__}" if isinstance(value, dict | list) else repr(value)[:40]


def _check_structure(structure: Structure, outputs: int, depth: int = _DEPTH) -> None:
    """Raise ValueError unless this nests the outputs of an entry point."""
    if depth == 0:
        raise ValueError("outputs are nested too deeply")
    if structure is None or (type(structure) is int and 0 <= structure < outputs):
        return
    for part in _parts_of(structure):
        _check_structure(part, outputs, depth - 1)


def _parts_of(structure: Structure) -> list[Structure]:
    match structure:
        case list():
            return structure
        case {"list": list(parts), **others} if not others:
            return parts
        case {"dict": dict(parts), **others} if not others:
            return list(parts.values())
    raise ValueError("outputs are not nested like this")

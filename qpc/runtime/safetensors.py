"""Files of the format safetensors, written and read with nothing but numpy.

Eight bytes with the size of the header, the header as JSON, and the values one after the other. It
says of each tensor its dtype, its shape, and where its bytes begin and end:
https://github.com/huggingface/safetensors
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np

from qpc import documents
from qpc.runtime.arrays import ArrayType, Stored

_NAMES = {
    "BOOL": "bool",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "BF16": "bfloat16",
    "C64": "complex64",
    **{f"U{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)},
    **{f"I{bits}": f"int{bits}" for bits in (8, 16, 32, 64)},
    **{f"F{bits}": f"float{bits}" for bits in (16, 32, 64)},
}
_CODES = {name: code for code, name in _NAMES.items()}
_SIZE = struct.Struct("<Q")
_MOST_AXES = 64
_MOST_ELEMENTS = 2**48


def write(tensors: Mapping[str, Stored]) -> bytes:
    """The file of some tensors: those with the widest elements first, then by name.

    Raises ValueError for a dtype that the format does not have.
    """
    header: dict[str, Any] = {}
    parts, at = [], 0
    for name in sorted(tensors, key=lambda name: (-tensors[name].type.storage.itemsize, name)):
        tensor = tensors[name]
        if tensor.type.dtype not in _CODES:
            raise ValueError(f"{tensor.type.dtype} cannot be saved")
        end = at + tensor.data.size
        header[name] = {
            "dtype": _CODES[tensor.type.dtype],
            "shape": list(tensor.type.shape),
            "data_offsets": [at, end],
        }
        parts.append(tensor.data)
        at = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _SIZE.size)
    return b"".join([_SIZE.pack(len(text)), text, *(part.tobytes() for part in parts)])


def read(data: bytes, where: str, fix: str) -> dict[str, Stored]:
    """The tensors of a file, in its memory. `where` and `fix` are for the error.

    Raises ArtifactError if it is not such a file, whole and with nothing else in it.
    """
    if len(data) < _SIZE.size or _SIZE.unpack_from(data)[0] > len(data) - _SIZE.size:
        raise documents.damaged(where, "it has no header", fix)
    start = _SIZE.size + _SIZE.unpack_from(data)[0]
    header = documents.parse(data[_SIZE.size : start], where, fix)
    values = np.frombuffer(data, np.uint8)[start:]
    found, spans = {}, []
    for name, about in header.items():
        if name == "__metadata__":
            continue
        described = _described(about)
        if described is None:
            raise documents.damaged(where, f"what it says of {name[:40]!r} is wrong", fix)
        kind, first, end = described
        if end > values.size:
            raise documents.damaged(where, f"{name[:40]!r} ends outside of it", fix)
        spans.append((first, end))
        found[name] = Stored(kind, values[first:end])
    ends = [0, *(end for _, end in sorted(spans))]
    if [first for first, _ in sorted(spans)] != ends[:-1] or ends[-1] != values.size:
        raise documents.damaged(where, "it holds bytes that belong to no tensor, or to two", fix)
    return found


def _described(about: object) -> tuple[ArrayType, int, int] | None:
    """The type, and the first and last place; None unless they fit each other."""
    match about:
        case {"dtype": str(code), "shape": list(shape), "data_offsets": [first, end], **others}:
            pass
        case _:
            return None
    sizes = [*shape, first, end]
    if others or code not in _NAMES or len(shape) > _MOST_AXES:
        return None
    if not all(type(size) is int and 0 <= size <= _MOST_ELEMENTS for size in sizes):
        return None
    kind = ArrayType(tuple(shape), _NAMES[code])
    fits = prod(shape) <= _MOST_ELEMENTS and end - first == kind.nbytes
    return (kind, first, end) if fits else None

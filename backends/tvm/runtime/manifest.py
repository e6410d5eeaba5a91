"""The manifest of a compiled model: what may stand in it, declared, and what it becomes."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor

from qpc.analysis.exactness import Exactness
from qpc.backends.common.plan import KernelUse, Kind, Place, Step
from qpc.backends.compiled import Signature, Structure
from qpc.backends.tvm.codegen.build import EntryPoint
from qpc.backends.tvm.report import OtherUse, Report
from qpc.settings import first_problem
from qpc.types import TensorType, dtype_name, dtype_of

_DEPTH = 16  # of outputs within outputs
_Text = Annotated[str, Field(max_length=10_000)]
_Size = Annotated[int, Field(ge=0, le=2**40)]
_Count = Annotated[int, Field(ge=-(2**62), le=2**62)]
_Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class _Part(BaseModel):
    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", strict=True, frozen=True)


class _Type(_Part):
    shape: Annotated[list[_Size], Field(max_length=64)]
    dtype: _Text

    def decoded(self) -> TensorType:
        dtype = dtype_of(self.dtype)
        if dtype is None:
            raise ValueError(f"there is no dtype {self.dtype[:40]!r}")
        return TensorType(tuple(self.shape), dtype)


class _Use(_Part):
    kernel: _Text
    nodes: list[_Text]
    macs: _Count
    bytes: _Count
    skipped: _Share
    saved: _Share
    method: _Text
    time: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    notes: list[_Text]

    def decoded(self) -> KernelUse:
        lists = {"nodes": tuple(self.nodes), "notes": tuple(self.notes)}
        return KernelUse(**self.model_dump() | lists)


class _Place(_Part):
    kind: Kind
    start: _Size
    size: _Size

    def decoded(self) -> Place:
        return Place(self.kind, self.start, self.size)


class _Step(_Use):
    reads: list[_Place]
    writes: list[_Place]
    scratch: _Place | None

    def decoded(self) -> Step:
        reads, writes = (tuple(p.decoded() for p in places) for places in (self.reads, self.writes))
        scratch = self.scratch.decoded() if self.scratch else None
        lists = {"nodes": tuple(self.nodes), "notes": tuple(self.notes)}
        places = {"reads": reads, "writes": writes, "scratch": scratch}
        return Step(**self.model_dump() | lists | places)


class _Other(_Part):
    node: _Text
    operator: _Text
    reason: _Text


class _Output(_Part):
    output: _Text
    rounded: list[_Text]

    def decoded(self) -> Exactness:
        return Exactness(self.output, tuple(self.rounded))


class _Report(_Part):
    kernels: list[_Use]
    others: list[_Other]
    outputs: list[_Output]
    seconds: dict[_Text, Annotated[float, Field(ge=0, allow_inf_nan=False)]]

    def decoded(self) -> Report:
        others = tuple(OtherUse(**other.model_dump()) for other in self.others)
        uses = tuple(use.decoded() for use in self.kernels)
        outputs = tuple(output.decoded() for output in self.outputs)
        return Report(uses, others, outputs, dict(self.seconds))


class _Entry(_Part):
    name: _Text
    weights: list[_Text]
    outputs: list[_Type]
    arena: _Size
    steps: list[_Step]

    def decoded(self) -> EntryPoint:
        outputs = tuple(t.decoded() for t in self.outputs)
        steps = tuple(use.decoded() for use in self.steps)
        return EntryPoint(self.name, tuple(self.weights), outputs, self.arena, steps)


class _Signature(_Part):
    names: list[_Text]
    inputs: Annotated[dict[str, list[_Type]], Field(min_length=1)]
    outputs: Any

    def decoded(self, outputs: int) -> Signature:
        names = tuple(self.names)
        inputs = {
            _batch(key): tuple(t.decoded() for t in types) for key, types in self.inputs.items()
        }
        if len(set(names)) != len(names) or any(len(t) != len(names) for t in inputs.values()):
            raise ValueError("not every input has a name and a type")
        if len(set(inputs.values())) != len(inputs):
            raise ValueError("two batch sizes have the same inputs")
        _check_structure(self.outputs, outputs)
        return Signature(names, inputs, self.outputs)


class Manifest(_Part):
    """The whole of `manifest.json`, but for its own hash."""

    format: Literal["qpc-tvm-model"]
    format_version: int
    backend: Literal["tvm"]
    versions: dict[_Text, _Text]
    target: dict[_Text, Any]  # see qpc.targets.form
    threads: Annotated[int, Field(ge=1, le=4096)]
    signature: _Signature
    entries: dict[str, _Entry]
    places: dict[_Text, int]
    report: _Report
    files: dict[str, Any]  # see qpc.documents

    def decoded_entries(self) -> dict[int, EntryPoint]:
        """The entry points by batch size. Raises ValueError for a manifest without sense."""
        entries = {_batch(key): entry.decoded() for key, entry in self.entries.items()}
        if entries.keys() != {_batch(key) for key in self.signature.inputs}:
            raise ValueError("entry points and inputs are of different batch sizes")
        return entries

    def decoded_signature(self) -> Signature:
        """The signature. Raises ValueError for a manifest without sense."""
        counts = {len(entry.outputs) for entry in self.entries.values()}
        if len(counts) != 1:
            raise ValueError("entry points have different numbers of outputs")
        return self.signature.decoded(counts.pop())


def validated(manifest: Mapping[str, Any]) -> Manifest:
    """The manifest, with everything in its place. Raises ValueError."""
    try:
        return Manifest.model_validate({k: v for k, v in manifest.items() if k != "sha256"})
    except ValidationError as e:
        raise ValueError(first_problem(e)[:300]) from e


def encode_signature(signature: Signature) -> dict[str, Any]:
    """A signature as JSON values."""
    inputs = {
        str(batch): [encode_type(t) for t in types] for batch, types in signature.inputs.items()
    }
    return {"names": list(signature.names), "inputs": inputs, "outputs": signature.outputs}


def encode_entry(entry: EntryPoint) -> dict[str, Any]:
    """An entry point as JSON values."""
    return asdict(entry) | {"outputs": [encode_type(t) for t in entry.outputs]}


def encode_type(tensor: TensorType) -> dict[str, Any]:
    """Shape and dtype as JSON values."""
    return {"shape": list(tensor.shape), "dtype": dtype_name(tensor.dtype)}


def interface(
    signature: Signature,
    threads: int,
    entries: Mapping[int, EntryPoint],
    weights: Mapping[str, Tensor],
) -> bytes:
    """All that callers of a library must know about it, in one spelling."""
    types = {
        name: encode_type(TensorType(tuple(tensor.shape), tensor.dtype))
        for name, tensor in sorted(weights.items())
    }
    about = {
        "signature": encode_signature(signature),
        "threads": threads,
        "entries": {str(batch): encode_entry(entry) for batch, entry in entries.items()},
        "weights": types,
    }
    return json.dumps(about, sort_keys=True).encode()


def _batch(key: str) -> int:
    if not re.fullmatch(r"[1-9][0-9]{0,8}", key):
        raise ValueError(f"{key[:40]!r} is no batch size")
    return int(key)


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

"""Encodings: the grids of a float model as JSON, as AIMET writes them and QNN and SNPE read them.

There are three versions, all from AIMET's specification of quantization encodings. Up to 1.0.0 an
integer counts from 0 and `real = (integer + offset) * scale`, so that the offset of a symmetric
int8 weight is -128; 2.0.0 has ONNX's dtypes and zero points.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from qpc.documents import parse
from qpc.errors import ArtifactError, ConfigError
from qpc.exporting.grids import TensorGrid
from qpc.settings import first_problem

VERSIONS = ("0.6.1", "1.0.0", "2.0.0")
DEFAULT_VERSION = "1.0.0"
_FIX = "write them again with qpc.export or AIMET"

_Scale = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Bits = Annotated[int, Field(ge=2, le=32)]


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class OldEncoding(_Closed):
    """A grid of version 0.6.1; a channel of one, where a tensor has several."""

    bitwidth: _Bits
    dtype: Literal["int", "float"] = "int"
    is_symmetric: Literal["True", "False"] | None = None
    scale: _Scale | None = None
    offset: int | None = None
    min: float | None = None
    max: float | None = None


class OldArguments(_Closed):
    """How a model was quantized as a whole."""

    activation_bitwidth: _Bits
    dtype: Literal["int", "float"]
    is_symmetric: bool
    param_bitwidth: _Bits
    per_channel_quantization: bool
    quant_scheme: str


class OldEncodings(_Closed):
    """A file of version 0.6.1."""

    version: Literal["0.6.1"]
    activation_encodings: dict[str, list[OldEncoding]]
    param_encodings: dict[str, list[OldEncoding]]
    quantizer_args: OldArguments | None = None


class Encoding(_Closed):
    """A grid of version 1.0.0."""

    name: str
    enc_type: Literal["PER_TENSOR", "PER_CHANNEL"]
    dtype: Literal["INT", "FLOAT"]
    bw: _Bits
    is_sym: bool | None = None
    scale: list[_Scale] | None = None
    offset: list[int] | None = None


class Encodings(_Closed):
    """A file of version 1.0.0."""

    version: Literal["1.0.0"]
    activation_encodings: list[Encoding]
    param_encodings: list[Encoding]
    quantizer_args: OldArguments | None = None


class NewEncoding(_Closed):
    """A grid of version 2.0.0; a zero point of 0 is left out."""

    name: str
    output_dtype: Annotated[str, Field(pattern="^u?int(2|4|8|16|32)$")]
    y_scale: _Scale | list[_Scale]
    y_zero_point: int | list[int] | None = None
    axis: int | None = None


class NewEncodings(_Closed):
    """A file of version 2.0.0."""

    version: Literal["2.0.0"]
    encodings: list[NewEncoding]


AnyEncodings = Annotated[OldEncodings | Encodings | NewEncodings, Field(discriminator="version")]
_ADAPTER: TypeAdapter[OldEncodings | Encodings | NewEncodings] = TypeAdapter(AnyEncodings)
SCHEMAS: Mapping[str, type[BaseModel]] = {
    "0.6.1": OldEncodings,
    "1.0.0": Encodings,
    "2.0.0": NewEncodings,
}
"""What files of each version hold; `model_json_schema()` of one is its JSON schema."""


def encodings(grids: Iterable[TensorGrid], version: str = DEFAULT_VERSION) -> str:
    """The grids of a float model as JSON. Raises ConfigError for an unknown version."""
    if version not in VERSIONS:
        raise ConfigError(
            f"encodings have no version {version!r}", fix=f"use one of: {', '.join(VERSIONS)}"
        )
    given = list(grids)
    written = {"0.6.1": _old, "1.0.0": _current, "2.0.0": _new}[version](given)
    return json.dumps(written.model_dump(exclude_none=True), indent=2) + "\n"


def read_encodings(text: bytes, source: str = "the encodings") -> tuple[TensorGrid, ...]:
    """The grids that encodings of any version describe; tensors in float are left out.

    source: what errors call it. Raises ArtifactError for what are no encodings.
    """
    try:
        found = _ADAPTER.validate_python(parse(text, source, _FIX))
        return tuple(_READERS[found.version](found))
    except ValidationError as e:
        raise ArtifactError(f"{source}: {_shortened(first_problem(e))}", fix=_FIX) from e
    except ValueError as e:
        raise ArtifactError(f"{source}: {_shortened(str(e))}", fix=_FIX) from e


def _shortened(text: str) -> str:
    """A message that may quote what stands in a file, which may be long."""
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


_LONGEST = 300


# --- writing --------------------------------------------------------------------------------------


def _offset(grid: TensorGrid) -> int:
    """Of integers that count from 0."""
    return grid.lo - grid.zero_point


def _old_entries(grid: TensorGrid) -> list[OldEncoding]:
    top = _offset(grid) + (1 << grid.bits) - 1
    return [
        OldEncoding(
            bitwidth=grid.bits,
            is_symmetric="True" if grid.symmetric else "False",
            scale=scale,
            offset=_offset(grid),
            min=_offset(grid) * scale,
            max=top * scale,
        )
        for scale in grid.scales
    ]


def _arguments(grids: Sequence[TensorGrid]) -> OldArguments:
    values = [grid for grid in grids if not grid.parameter]
    weights = [grid for grid in grids if grid.parameter]
    return OldArguments(
        activation_bitwidth=max((grid.bits for grid in values), default=8),
        dtype="int",
        is_symmetric=all(grid.symmetric for grid in values),
        param_bitwidth=max((grid.bits for grid in weights), default=8),
        per_channel_quantization=any(grid.axis is not None for grid in weights),
        quant_scheme="post_training_tf",
    )


def _old(grids: Sequence[TensorGrid]) -> OldEncodings:
    return OldEncodings(
        version="0.6.1",
        activation_encodings={g.tensor: _old_entries(g) for g in grids if not g.parameter},
        param_encodings={g.tensor: _old_entries(g) for g in grids if g.parameter},
        quantizer_args=_arguments(grids),
    )


def _current(grids: Sequence[TensorGrid]) -> Encodings:
    def entry(grid: TensorGrid) -> Encoding:
        return Encoding(
            name=grid.tensor,
            enc_type="PER_TENSOR" if grid.axis is None else "PER_CHANNEL",
            dtype="INT",
            bw=grid.bits,
            is_sym=grid.symmetric,
            scale=list(grid.scales),
            offset=[_offset(grid)] * len(grid.scales),
        )

    return Encodings(
        version="1.0.0",
        activation_encodings=[entry(grid) for grid in grids if not grid.parameter],
        param_encodings=[entry(grid) for grid in grids if grid.parameter],
        quantizer_args=_arguments(grids),
    )


def _new(grids: Sequence[TensorGrid]) -> NewEncodings:
    def entry(grid: TensorGrid) -> NewEncoding:
        scales = list(grid.scales)
        one = grid.axis is None
        zeros = grid.zero_point if one else [grid.zero_point] * len(scales)
        return NewEncoding(
            name=grid.tensor,
            output_dtype=f"{'int' if grid.lo < 0 else 'uint'}{grid.bits}",
            y_scale=scales[0] if one else scales,
            y_zero_point=zeros if grid.zero_point else None,
            axis=grid.axis,
        )

    return NewEncodings(version="2.0.0", encodings=[entry(grid) for grid in grids])


# --- reading --------------------------------------------------------------------------------------


def _grid(
    name: str, scales: Sequence[float], offsets: Sequence[int], bits: int, *, parameter: bool
) -> TensorGrid:
    """A grid of version 1.0.0 or before; symmetric ones of parameters are signed, as ours are."""
    if not scales or len(offsets) != len(scales) or len(set(offsets)) > 1:
        raise ValueError(f"{name!r} has not one offset for {len(scales)} scales")
    lo = -(1 << (bits - 1)) if parameter else 0
    ends = lo - offsets[0], lo, lo + (1 << bits) - 1
    axis = 0 if parameter else None
    return TensorGrid(name, tuple(scales), *ends, axis=axis, parameter=parameter)


def _from_old(found: Any) -> Iterable[TensorGrid]:
    for parameter, table in (
        (False, found.activation_encodings),
        (True, found.param_encodings),
    ):
        for name, entries in table.items():
            known = [e for e in entries if e.dtype == "int"]
            if not known:
                continue
            if any(e.scale is None or e.offset is None for e in known):
                raise ValueError(f"{name!r} has no scale or no offset")
            scales, offsets = [e.scale for e in known], [e.offset for e in known]
            yield _grid(name, scales, offsets, known[0].bitwidth, parameter=parameter)


def _from_current(found: Any) -> Iterable[TensorGrid]:
    for parameter, entries in (
        (False, found.activation_encodings),
        (True, found.param_encodings),
    ):
        for e in entries:
            if e.dtype == "INT":
                yield _grid(e.name, e.scale or [], e.offset or [], e.bw, parameter=parameter)


def _from_new(found: NewEncodings) -> Iterable[TensorGrid]:
    for e in found.encodings:
        scales = e.y_scale if isinstance(e.y_scale, list) else [e.y_scale]
        zeros = e.y_zero_point if isinstance(e.y_zero_point, list) else [e.y_zero_point or 0]
        if not scales or len(set(zeros)) > 1:
            raise ValueError(f"{e.name!r} has several zero points, or no scale")
        signed, bits = not e.output_dtype.startswith("u"), int(e.output_dtype.split("int")[1])
        lo = -(1 << (bits - 1)) if signed else 0
        ends = zeros[0], lo, lo + (1 << bits) - 1
        yield TensorGrid(e.name, tuple(scales), *ends, axis=e.axis, parameter=e.axis is not None)


_READERS: Mapping[str, Any] = {"0.6.1": _from_old, "1.0.0": _from_current, "2.0.0": _from_new}

"""The tables of a .tflite file, and how they become bytes.

Numbers of fields, operators and types are those of TensorFlow Lite's schema, version 3
(`tensorflow/lite/schema/schema.fbs`). Of each table only the fields that are written here appear.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from flatbuffers import Builder

IDENTIFIER = b"TFL3"
"""Bytes 4 to 7 of every file."""
SCHEMA_VERSION = 3
_DATA_ALIGNMENT = 16  # of the contents of buffers, which runtimes map


class Kind(IntEnum):
    """What an operator does: `BuiltinOperator`."""

    ADD = 0
    AVERAGE_POOL_2D = 1
    CONCATENATION = 2
    CONV_2D = 3
    DEPTHWISE_CONV_2D = 4
    DEQUANTIZE = 6
    FULLY_CONNECTED = 9
    LOGISTIC = 14
    MAX_POOL_2D = 17
    MUL = 18
    RELU = 19
    RESHAPE = 22
    RESIZE_BILINEAR = 23
    SOFTMAX = 25
    TANH = 28
    PAD = 34
    GATHER = 36
    TRANSPOSE = 39
    MEAN = 40
    SUB = 41
    DIV = 42
    STRIDED_SLICE = 45
    CAST = 53
    MAXIMUM = 55
    ARG_MAX = 56
    MINIMUM = 57
    LESS = 58
    PADV2 = 60
    GREATER = 61
    GREATER_EQUAL = 62
    LESS_EQUAL = 63
    TRANSPOSE_CONV = 67
    TILE = 69
    EQUAL = 71
    NOT_EQUAL = 72
    ARG_MIN = 79
    REDUCE_MAX = 82
    LOGICAL_OR = 84
    LOGICAL_AND = 86
    LOGICAL_NOT = 87
    REDUCE_MIN = 89
    RESIZE_NEAREST_NEIGHBOR = 97
    LEAKY_RELU = 98
    REVERSE_V2 = 105
    QUANTIZE = 114
    HARD_SWISH = 117
    SELECT_V2 = 123


_VERSIONS: Mapping[Kind, int] = {
    Kind.CONV_2D: 3,
    Kind.DEPTHWISE_CONV_2D: 3,
    Kind.FULLY_CONNECTED: 5,
    Kind.RESIZE_BILINEAR: 3,
    Kind.RESIZE_NEAREST_NEIGHBOR: 3,
    Kind.TRANSPOSE_CONV: 3,
    Kind.RESHAPE: 1,
    Kind.HARD_SWISH: 1,
    Kind.SOFTMAX: 1,
    Kind.DIV: 1,
    Kind.CAST: 1,
    Kind.TILE: 1,
    Kind.SELECT_V2: 1,
    Kind.LOGICAL_OR: 1,
    Kind.LOGICAL_AND: 1,
    Kind.LOGICAL_NOT: 1,
}
"""The first version of each operator that has what is used of it; of others it is 2 (int8)."""


class TypeCode(IntEnum):
    """Of the elements of a tensor: `TensorType`."""

    FLOAT32 = 0
    INT32 = 2
    INT64 = 4
    BOOL = 6
    INT8 = 9


TYPES: Mapping[str, TypeCode] = {
    "float32": TypeCode.FLOAT32,
    "int32": TypeCode.INT32,
    "int64": TypeCode.INT64,
    "bool": TypeCode.BOOL,
    "int8": TypeCode.INT8,
}


class Activation(IntEnum):
    """What an operator does to its results: `ActivationFunctionType`."""

    NONE = 0
    RELU = 1
    RELU6 = 3


class Padding(IntEnum):
    """How windows are placed: `Padding`."""

    SAME = 0
    VALID = 1


@dataclass(frozen=True)
class Number:
    """A field that holds a number; kind: as flatbuffers calls it; default: what is not stored."""

    value: float
    kind: str = "Int32"
    default: float = 0


def byte(value: int) -> Number:
    """An int8, and enumerations of few values."""
    return Number(int(value), "Int8")


def flag(value: bool) -> Number:  # it is a conversion
    """A truth value."""
    return Number(value, "Bool")


@dataclass(frozen=True)
class Table:
    """Values by the numbers of their fields; what is None is left out."""

    fields: Mapping[int, Value]


@dataclass(frozen=True)
class Data:
    """Bytes that are aligned, as the contents of buffers are."""

    data: bytes


Value: TypeAlias = "Number | str | npt.NDArray[np.generic] | Table | Data | Sequence[Table] | None"


@dataclass(frozen=True)
class Options:
    """The attributes of an operator: a table of the union `BuiltinOptions`; code: which one."""

    code: int
    table: Table


def operator_code(kind: Kind) -> Table:
    """`OperatorCode`; its first field is from the time when 127 were enough."""
    code, version = int(kind), _VERSIONS.get(kind, 2)
    return Table({0: byte(min(code, 127)), 2: Number(version, default=1), 3: Number(code)})


def operator(
    code: int, inputs: Sequence[int], outputs: Sequence[int], options: Options | None
) -> Table:
    """`Operator`; code: index of its `OperatorCode`; inputs, outputs: indices of tensors."""
    fields: dict[int, Value] = {0: Number(code, "Uint32"), 1: _row(inputs), 2: _row(outputs)}
    if options is not None:
        fields |= {3: Number(options.code, "Uint8"), 4: options.table}
    return Table(fields)


@dataclass(frozen=True)
class Quantization:
    """How integers stand for real numbers: `real = scale * (q - zero_point)`.

    scales: one, or one for each index of `axis`. zero_points: as many.
    """

    scales: tuple[float, ...]
    zero_points: tuple[int, ...]
    axis: int = 0

    def table(self) -> Table:
        """`QuantizationParameters`."""
        return Table(
            {
                2: np.array(self.scales, np.float32),
                3: np.array(self.zero_points, np.int64),
                6: Number(self.axis),
            }
        )


def tensor(
    name: str, shape: Sequence[int], dtype: str, buffer: int, grid: Quantization | None
) -> Table:
    """`Tensor`; buffer: index of the one with its contents, 0 for a computed one."""
    return Table(
        {
            0: _row(shape),
            1: byte(TYPES[dtype]),
            2: Number(buffer, "Uint32"),
            3: name,
            4: grid.table() if grid else None,
        }
    )


def subgraph(
    tensors: Sequence[Table], inputs: Sequence[int], outputs: Sequence[int], calls: Sequence[Table]
) -> Table:
    """`SubGraph`."""
    return Table({0: tensors, 1: _row(inputs), 2: _row(outputs), 3: calls, 4: "main"})


def signature(inputs: Mapping[str, int], outputs: Mapping[str, int]) -> Table:
    """`SignatureDef` by the name that TensorFlow gives to the only one; tensors by their names."""

    def maps(named: Mapping[str, int]) -> list[Table]:
        return [Table({0: name, 1: Number(i, "Uint32")}) for name, i in named.items()]

    return Table({0: maps(inputs), 1: maps(outputs), 2: "serving_default"})


def model(
    codes: Sequence[Table],
    graph: Table,
    buffers: Sequence[bytes],
    signatures: Sequence[Table],
    metadata: Mapping[str, bytes],
    description: str,
) -> bytes:
    """`Model`, as the bytes of a file.

    buffers: the first one is empty. metadata: texts by name, which become further buffers.
    """
    named = [
        Table({0: name, 1: Number(len(buffers) + i, "Uint32")}) for i, name in enumerate(metadata)
    ]
    all_buffers = [*buffers, *metadata.values()]
    root = Table(
        {
            0: Number(SCHEMA_VERSION, "Uint32"),
            1: codes,
            2: [graph],
            3: description,
            4: [Table({0: Data(data) if data else None}) for data in all_buffers],
            6: named,
            7: signatures,
        }
    )
    return _encoded(root)


def _row(values: Sequence[int]) -> npt.NDArray[np.int32]:
    return np.array(values, np.int32)


def _encoded(root: Table) -> bytes:
    from flatbuffers import Builder

    builder = Builder(1024)
    builder.Finish(_table(builder, root), file_identifier=IDENTIFIER)
    return bytes(builder.Output())


def _table(builder: Builder, table: Table) -> int:
    """Write a table behind what it refers to; its place."""
    offsets = {
        slot: _referred(builder, value)
        for slot, value in table.fields.items()
        if value is not None and not isinstance(value, Number)
    }
    builder.StartObject(max(table.fields, default=-1) + 1)
    for slot, value in table.fields.items():
        if isinstance(value, Number):
            put = getattr(builder, f"Prepend{value.kind}Slot")
            put(slot, value.value, value.default)
        elif slot in offsets:
            builder.PrependUOffsetTRelativeSlot(slot, offsets[slot], 0)
    return int(builder.EndObject())


def _referred(builder: Builder, value: Value) -> int:
    """Write what a field refers to; its place."""
    if isinstance(value, str):
        return int(builder.CreateString(value))
    if isinstance(value, Table):
        return _table(builder, value)
    if isinstance(value, Data):
        return _aligned(builder, value.data)
    if isinstance(value, np.ndarray):
        return int(builder.CreateNumpyVector(value))
    assert isinstance(value, Sequence)
    places = [_table(builder, each) for each in value if isinstance(each, Table)]
    builder.StartVector(4, len(places), 4)
    for place in reversed(places):
        builder.PrependUOffsetTRelative(place)
    return int(builder.EndVector())


def _aligned(builder: Builder, data: bytes) -> int:
    """As `CreateByteVector`, which aligns to nothing."""
    builder.StartVector(1, len(data), _DATA_ALIGNMENT)
    builder.head = builder.head - len(data)
    builder.Bytes[builder.head : builder.head + len(data)] = data
    return int(builder.EndVector())

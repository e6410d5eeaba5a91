"""The inputs that an ONNX model takes, and examples of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from qpc.capture.checks import ExampleInputs
from qpc.errors import ArtifactError
from qpc.importers.onnx.module import OnnxModule
from qpc.importers.onnx.sizes import MOST_ELEMENTS
from qpc.types import dtype_name

if TYPE_CHECKING:
    import onnx

_BATCH = 2  # 0 and 1 are special to torch.export
_FIX = "pass example_inputs, such as torch.randn(2, 3, 224, 224), or --input 2x3x224x224"
_TYPES = {
    "FLOAT": torch.float32,
    "FLOAT16": torch.float16,
    "BFLOAT16": torch.bfloat16,
    "DOUBLE": torch.float64,
    "INT8": torch.int8,
    "UINT8": torch.uint8,
    "INT32": torch.int32,
    "INT64": torch.int64,
    "BOOL": torch.bool,
}


def with_ranks(model: onnx.ModelProto, source: str, *, given: bool) -> None:
    """Mark inputs and outputs without a shape, which ONNX's checker would not say the names of.

    given: whether there are example inputs, which say it. Raises ArtifactError if there are none
    and an input has no shape.
    """
    for value in model.graph.output:
        value.type.tensor_type.shape.SetInParent()
    stored = {tensor.name for tensor in model.graph.initializer}
    for value in model.graph.input:
        kind = value.type.tensor_type
        if not kind.HasField("shape") and value.name not in stored:
            if not given:
                raise _open(source, f"{value.name!r} is, nor of how many axes")
            kind.shape.SetInParent()


def examples(model: onnx.ModelProto, module: OnnxModule, source: str) -> tuple[Tensor, ...]:
    """Random inputs of the sizes that the model gives, two samples where it leaves them open.

    Raises ArtifactError for inputs whose sizes are open, or that are no floats.
    """
    found = []
    generator = torch.Generator().manual_seed(0)
    for value in _taken(model, module):
        kind = value.type.tensor_type
        dims = [d.dim_value or d.dim_param or "?" for d in kind.shape.dim]
        sizes = [d if isinstance(d, int) else 0 for d in dims]
        if sizes and sizes[0] == 0:
            sizes[0] = _BATCH
        if min(sizes, default=1) <= 0 or prod(sizes) > MOST_ELEMENTS:
            raise _open(source, f"{value.name!r} is: [{', '.join(map(str, dims))}]")
        dtype = _dtype(kind.elem_type)
        if dtype is None or not dtype.is_floating_point:
            raise ArtifactError(
                f"{source}: no example is made up for its input {value.name!r}, which is no float",
                fix=_FIX,
            )
        found.append(torch.randn(sizes, generator=generator).to(dtype))
    return tuple(found)


def in_order(
    model: onnx.ModelProto, module: OnnxModule, given: ExampleInputs, source: str
) -> Sequence[Tensor]:
    """Example inputs in the order of the model's.

    Raises ArtifactError for such of another number, name or type than the model takes.
    """
    taken = _taken(model, module)
    names = [value.name for value in taken]
    values: object = [given] if isinstance(given, Tensor) else given
    if isinstance(values, Mapping):
        if sorted(values) != sorted(names):
            raise ArtifactError(
                f"{source} takes {', '.join(map(repr, names))}, got {', '.join(map(repr, values))}",
                fix="pass tensors by these names, or in this order",
            )
        values = [values[name] for name in names]
    if not isinstance(values, Sequence):
        raise ArtifactError(
            f"{source}: example inputs are {type(values).__name__}, not tensors",
            fix="pass one tensor, a sequence of tensors, or a mapping of tensors by name",
        )
    if len(values) != len(taken):
        raise ArtifactError(
            f"{source} takes {len(taken)} input(s), {', '.join(map(repr, names))},"
            f" got {len(values)}",
            fix="pass a tensor for each, in this order",
        )
    for value, tensor in zip(taken, values, strict=True):
        wanted = _dtype(value.type.tensor_type.elem_type)
        dtype = tensor.dtype if isinstance(tensor, Tensor) else None
        if wanted is not None and dtype is not wanted:
            got = type(tensor).__name__ if dtype is None else dtype_name(dtype)
            raise ArtifactError(
                f"{source}: the input {value.name!r} is {dtype_name(wanted)}, got {got}",
                fix=f"pass tensors of these types, in the order {', '.join(map(repr, names))}",
            )
    return values


def _taken(model: onnx.ModelProto, module: OnnxModule) -> list[onnx.ValueInfoProto]:
    return [value for value in model.graph.input if value.name in module.inputs]


def _dtype(number: int) -> torch.dtype | None:
    from onnx import TensorProto

    known = number in TensorProto.DataType.values()
    return _TYPES.get(TensorProto.DataType.Name(number)) if known else None


def _open(source: str, what: str) -> ArtifactError:
    return ArtifactError(f"{source} does not say of which size its input {what}", fix=_FIX)

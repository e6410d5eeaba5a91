"""QuantizeLinear and DequantizeLinear: how grids and weights are written as nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.fx import Node

from qpc.errors import BackendError
from qpc.exporting.onnx.form import FOUR_BIT_OPSET, TWO_BIT_OPSET, OnnxForm
from qpc.quant.grid import QParams
from qpc.types import dtype_name

if TYPE_CHECKING:
    from qpc.exporting.onnx.exporter import Exporter

SYMMETRIC = (
    "quantize with qpc.quant.config.ActivationConfig(symmetric=True), see docs/interoperability.md"
)


def stored_grid(grid: QParams, form: OnnxForm, node: Node) -> QParams:
    """A grid of the same real numbers in the integers of a form.

    TensorRT's have the zero point 0. Raises BackendError for a grid that cannot be shifted there.
    """
    if form.kind != "tensorrt":
        return grid
    lo, hi = grid.lo - grid.zero_point, grid.hi - grid.zero_point
    limits = torch.iinfo(torch.int8)
    if lo < limits.min or hi > limits.max:
        raise BackendError(
            "TensorRT takes symmetric grids alone, and the zero point of a value is"
            f" {grid.zero_point} of {grid.lo} to {grid.hi}",
            node=node,
            fix=SYMMETRIC,
        )
    return QParams(grid.scale, 0, lo, hi, torch.int8)


def write_grid(
    to: Exporter,
    name: str,
    grid: QParams,
    ends: tuple[int, int] | None = None,
    *,
    only_integers: bool = False,
) -> str:
    """A QuantizeLinear and a DequantizeLinear.

    ends: the points that the value is clamped to, the ends of the grid by default. Where the
    integers that it is stored in go beyond them, they are clamped between the two nodes, as QCDQ
    does it, which leaves operators in front of them to be fused; or the value is in front of both
    for TensorRT, which allows nothing in between, and for integers that Clip does not know.
    """
    low, high = ends or (grid.lo, grid.hi)
    dtype = _integers_of(grid, to.opset)
    whole = _ends(grid.dtype) if dtype == dtype_name(grid.dtype) else (grid.lo, grid.hi)
    narrow = (low, high) != whole
    if narrow and (to.form.kind == "tensorrt" or dtype != dtype_name(grid.dtype)):
        points = [np.float32((p - grid.zero_point) * grid.scale) for p in (low, high)]
        name, narrow = to.emit("Clip", [name, *map(to.constant, points)]), False
    # Each pair has constants of its own: ONNX Runtime changes zero points in place.
    constants = [
        to.constant(np.float32(grid.scale), f"{to.value_name}.scale"),
        to.constant(_array(np.array(grid.zero_point), dtype), f"{to.value_name}.zero_point"),
    ]
    integer = to.emit("QuantizeLinear", [name, *constants])
    if narrow:
        integer = to.emit(
            "Clip", [integer, *(to.constant(np.array(p, dtype)) for p in (low, high))]
        )
    return integer if only_integers else to.emit("DequantizeLinear", [integer, *constants])


def dequantized(to: Exporter, integer: Tensor, scales: Tensor, axis: int, name: str) -> str:
    """A constant int8 or int32 tensor behind a DequantizeLinear; scales by index of an axis."""
    value = integer.numpy()
    dtype = _weights_of(value, to.opset)
    zeros = _array(np.zeros(tuple(scales.shape), value.dtype), dtype)
    stored = to.constant(_array(value, dtype), f"{name}.{dtype}")
    ends = [to.constant(scales.numpy(), f"{name}.scale"), to.constant(zeros, f"{name}.zero_point")]
    return to.named(to.emit("DequantizeLinear", [stored, *ends], axis=axis), name)


def _ends(dtype: torch.dtype) -> tuple[int, int]:
    limits = torch.iinfo(dtype)
    return limits.min, limits.max


def _integers_of(grid: QParams, opset: int) -> str:
    """The integers of which a grid has all; those of 8 bits if there are none."""
    for bits, since in ((4, FOUR_BIT_OPSET), (2, TWO_BIT_OPSET)):
        signed, unsigned = 1 << (bits - 1), 1 << bits
        if opset >= since and (grid.lo, grid.hi) == (0, unsigned - 1):
            return f"uint{bits}"
        if opset >= since and (grid.lo, grid.hi) == (-signed, signed - 1):
            return f"int{bits}"
    return dtype_name(grid.dtype)


def _weights_of(value: npt.NDArray[Any], opset: int) -> str:
    """The smallest integers that hold a weight."""
    least, greatest = (int(value.min()), int(value.max())) if value.size else (0, 0)
    for bits, since in ((2, TWO_BIT_OPSET), (4, FOUR_BIT_OPSET)):
        limit = 1 << (bits - 1)
        if opset >= since and value.dtype == np.int8 and -limit <= least <= greatest < limit:
            return f"int{bits}"
    return value.dtype.name


def _array(value: npt.NDArray[Any], dtype: str) -> npt.NDArray[Any]:
    """An array of integers, of 2 or 4 bits too."""
    if dtype in ("uint2", "int2", "uint4", "int4"):
        import ml_dtypes

        return value.astype(getattr(ml_dtypes, dtype))
    return value.astype(dtype)

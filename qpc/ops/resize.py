"""Resizing of images, in float and in integers."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.fx import Node

from qpc.calls import Arg, OpView, Pair, aten
from qpc.library import define
from qpc.quant.arithmetic import require_sizes
from qpc.registry import OpSpec, Role, specs_of_views

POSITIONS = 2048
"""Places between two pixels that `qpc::resize2d` knows; a power of two."""
_IMAGES = "resizing was converted for images"


class UpsampleNearest2d(
    OpView, of=(aten.upsample_nearest2d.default, aten._upsample_nearest_exact2d.default)
):
    """Every output is the input next to it, of the two kinds that torch has."""

    input = Arg[Node]("self")
    output_size = Pair()
    scales_h = Arg[float | None]()
    scales_w = Arg[float | None]()


class UpsampleBilinear2d(OpView, of=aten.upsample_bilinear2d.default):
    """Linear interpolation over rows and columns."""

    input = Arg[Node]("self")
    output_size = Pair()
    align_corners = Arg[bool]()
    scales_h = Arg[float | None]()
    scales_w = Arg[float | None]()


def _resize2d(q: Tensor, rows: Tensor, columns: Tensor, input_size: Sequence[int]) -> Tensor:
    """Sample at the given places, in units of `1 / POSITIONS` pixels: linear, rounded once.

    The places are right for images of `input_size` only.
    """
    require_sizes(q, [*[-1] * (q.dim() - 3), *input_size], _IMAGES)

    def sampled(x: Tensor, places: Tensor, axis: int) -> Tensor:
        shape = (-1, 1) if axis == -2 else (-1,)
        weight = (places % POSITIONS).reshape(shape)
        first = (places // POSITIONS).to(torch.int64)
        second = (first + 1).clamp(max=x.shape[axis] - 1)  # of weight 0 beyond the last
        low, high = x.index_select(axis, first), x.index_select(axis, second)
        return low * (POSITIONS - weight) + high * weight

    total = sampled(sampled(q.to(torch.int64), rows, -2), columns, -1)
    shift = 2 * (POSITIONS.bit_length() - 1)
    return ((total + (1 << (shift - 1))) >> shift).to(q.dtype)


def _fake_resize2d(q: Tensor, rows: Tensor, columns: Tensor, input_size: Sequence[int]) -> Tensor:
    require_sizes(q, [*[-1] * (q.dim() - 3), *input_size], _IMAGES)
    return q.new_empty((*q.shape[:-2], rows.shape[0], columns.shape[0]))


RESIZE2D = define(
    "resize2d(Tensor q, Tensor rows, Tensor columns, int[2] input_size) -> Tensor",
    _resize2d,
    _fake_resize2d,
)


SPECS = (
    *specs_of_views(
        (UpsampleNearest2d, "upsample_nearest2d", Role.MOVE),
        (UpsampleBilinear2d, "upsample_bilinear2d", Role.INTERPOLATE),
    ),
    OpSpec(RESIZE2D, "resize2d"),
)

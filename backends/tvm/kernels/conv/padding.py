"""Copies of input rows with a border, so that windows need no bounds checks."""

from __future__ import annotations

from dataclasses import dataclass

from tvm.tirx import Expr
from tvm.tirx.script import builder as T

from qpc.backends.tvm.kernels.emit import Flat, Index, copy, fill, loop, when
from qpc.backends.tvm.kernels.geometry import ConvShape


@dataclass(frozen=True)
class PaddedRows:
    """Rows of the padded input: `count` rows that are `step` apart, cut or filled to `columns`."""

    count: int
    step: int
    columns: int


def copy_padded_rows(
    shape: ConvShape,
    x: Flat,
    target: Flat,
    border: Expr,
    *,
    image: Index,
    first_output_row: Index,
    output_rows: int,
) -> None:
    """Copy what `output_rows` rows of output see of an image; rows of input follow one another."""
    rows = PaddedRows(shape.input_rows(output_rows), 1, shape.input_columns(shape.ow))
    first = first_output_row * shape.stride[0]
    never_outside = shape.input_rows(shape.oh) <= shape.h + shape.padding[0]
    copy_rows(shape, x, target, border, rows, image=image, first=first, fits=never_outside)


def copy_pixels(
    shape: ConvShape, x: Flat, pixel: Index, target: Flat, offset: Index, count: int
) -> None:
    """Copy `count` pixels, from number `pixel` on, one after the other."""
    step = shape.images.step
    source = pixel * step + shape.images.first
    if step == shape.c:
        copy(target, offset, x, source, count * shape.c)
        return
    with loop(count) as i:
        copy(target, offset + i * shape.c, x, source + i * step, shape.c)


def copy_rows(
    shape: ConvShape,
    x: Flat,
    target: Flat,
    border: Expr,
    rows: PaddedRows,
    *,
    image: Index,
    first: Index,
    fits: bool,
) -> None:
    """Copy rows of the padded input, from row `first` on, one after the other.

    fits: whether no row, whatever `first` is, lies below the input.
    """
    border = T.cast(border, target.dtype)
    top, left, _, _ = shape.padding
    columns = rows.columns
    before, skipped = min(max(left, 0), columns), max(-left, 0)
    inside = max(0, min(shape.w - skipped, columns - before))
    after = columns - before - inside
    with loop(rows.count) as i:
        row = first + i * rows.step - top
        start = i * (columns * shape.c)

        def copy_row(start: Index = start, row: Index = row) -> None:
            pixel = (image * shape.h + row) * shape.w + skipped
            fill(target, start, border, before * shape.c)
            copy_pixels(shape, x, pixel, target, start + before * shape.c, inside)
            fill(target, start + (before + inside) * shape.c, border, after * shape.c)

        if top <= 0 and fits:
            copy_row()
        else:
            outside = T.Or(row < 0, row >= shape.h)
            with when(outside):
                fill(target, start, border, columns * shape.c)
            with when(T.Not(outside)):
                copy_row()

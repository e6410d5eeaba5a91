"""Copies of input rows with a border, so that windows need no bounds checks."""

from __future__ import annotations

from tvm.tirx import Expr
from tvm.tirx.script import builder as T

from qpc.backends.tvm.kernels.emit import Flat, Index, copy, fill, loop, when
from qpc.backends.tvm.kernels.geometry import ConvShape


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
    border = T.cast(border, target.dtype)
    top, left, _, _ = shape.padding
    columns = shape.input_columns(shape.ow)
    before, skipped = min(max(left, 0), columns), max(-left, 0)
    inside = max(0, min(shape.w - skipped, columns - before))
    after = columns - before - inside
    with loop(shape.input_rows(output_rows)) as i:
        row = first_output_row * shape.stride[0] + (i - top)
        start = i * (columns * shape.c)

        def copy_row(start: Index = start, row: Index = row) -> None:
            source = ((image * shape.h + row) * shape.w + skipped) * shape.c
            fill(target, start, border, before * shape.c)
            copy(target, start + before * shape.c, x, source, inside * shape.c)
            fill(target, start + (before + inside) * shape.c, border, after * shape.c)

        if top <= 0 and shape.input_rows(shape.oh) - top <= shape.h:
            copy_row()
        else:
            outside = T.Or(row < 0, row >= shape.h)
            with when(outside):
                fill(target, start, border, columns * shape.c)
            with when(T.Not(outside)):
                copy_row()

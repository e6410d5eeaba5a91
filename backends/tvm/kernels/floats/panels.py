"""The right operand of a product, as kernels read it: panels of `lanes` columns.

A panel holds, row by row, the elements of its columns side by side: one vector for each term of a
sum. Constant operands are packed when a model is compiled, others by the kernel that reads them,
but for those that can be read as they lie. Columns beyond the matrix are zeros, or what is next to
them: their sums are not stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil

from tvm.tirx import Expr
from tvm.tirx.script import builder as T

from qpc.backends.tvm.kernels.emit import Flat, Index, bind, loop, shuffle, smaller, splat


@dataclass(frozen=True)
class Matrix:
    """A matrix[rows, columns] within a tensor, whose columns lie side by side in memory.

    stride: elements from one row to the next.
    """

    data: Flat
    start: Index
    rows: int
    columns: int
    stride: int

    def load(self, row: Index, column: Index, lanes: int = 1) -> Expr:
        """Elements of one row, from a column on."""
        return self.data.load(self.start + row * self.stride + column, lanes)


@dataclass(frozen=True)
class Panels:
    """Panels of a matrix[rows, columns] in memory."""

    data: Flat
    start: Index
    rows: int
    lanes: int

    def moved(self, panels: Index) -> Panels:
        """The same from a panel on."""
        return replace(self, start=bind(self.start + panels * (self.rows * self.lanes)))

    def load(self, panel: Index, row: Index) -> Expr:
        """One row of a panel: a vector of `lanes` columns."""
        at = self.start + panel * (self.rows * self.lanes) + row * self.lanes
        return self.data.load(at, self.lanes)

    def store(self, panel: Index, row: Index, value: Expr) -> None:
        """Write one row of a panel."""
        at = self.start + panel * (self.rows * self.lanes) + row * self.lanes
        self.data.store(at, value, self.lanes)


@dataclass(frozen=True)
class InPlace:
    """The panels of a matrix that are not packed: vectors of its rows."""

    matrix: Matrix
    lanes: int

    @property
    def rows(self) -> int:
        """Those of the matrix, which are the terms of a sum."""
        return self.matrix.rows

    def moved(self, panels: Index) -> InPlace:
        """The same from a panel on."""
        start = bind(self.matrix.start + panels * self.lanes)
        return replace(self, matrix=replace(self.matrix, start=start))

    def load(self, panel: Index, row: Index) -> Expr:
        """One row of a panel: a vector of `lanes` columns."""
        return self.matrix.load(row, panel * self.lanes, self.lanes)


def zero(lanes: int) -> Expr:
    """A vector of zeros."""
    return splat(T.FloatImm("float32", 0.0), lanes)


def widened(few: Expr, count: int, others: Expr, lanes: int) -> Expr:
    """A vector that begins with `count` elements, and goes on with some of the vector `others`."""
    if count == lanes:
        return few
    return shuffle([few, others], range(lanes))


def panel_size(rows: int, columns: int, lanes: int) -> int:
    """Elements of all panels of a matrix."""
    return ceil(columns / lanes) * lanes * rows


def pack_panel(panels: Panels, matrix: Matrix, panel: Index) -> None:
    """Pack the columns of one panel of `matrix`."""
    lanes = panels.lanes
    whole, rest = divmod(matrix.columns, lanes)

    def pack(count: int) -> None:
        with loop(matrix.rows) as row:
            found = matrix.load(row, panel * lanes, count)
            panels.store(panel, row, widened(found, count, zero(lanes), lanes))

    if not rest or not whole:
        pack(rest or lanes)
        return
    with T.If(panel < whole):
        with T.Then():
            pack(lanes)
        with T.Else():
            pack(rest)


def pack_turned_panel(panels: Panels, matrix: Matrix, panel: Index) -> None:
    """Pack one panel of the transposed `matrix`: `lanes` of its rows."""
    lanes, steps = panels.lanes, matrix.columns
    first = bind(panel * lanes)
    rows = [bind(smaller(first + lane, matrix.rows - 1)) for lane in range(lanes)]
    if matrix.rows % lanes == 0:
        rows = [first + lane for lane in range(lanes)]
    whole = steps // lanes

    def square(at: Index) -> None:
        loaded = [bind(matrix.load(row, at, lanes)) for row in rows]
        for i, column in enumerate(transposed(loaded, lanes)):
            panels.store(panel, at + i, column)

    if whole:
        with loop(whole) as i:
            square(bind(i * lanes))
    if steps % lanes and whole:
        square(steps - lanes)
    elif steps % lanes:
        for step in range(steps):
            values = [bind(matrix.load(row, step)) for row in rows]
            panels.store(panel, step, shuffle(values, range(lanes)))


def transposed(rows: Sequence[Expr], lanes: int) -> list[Expr]:
    """The transpose of `lanes` vectors of `lanes` elements: halves interleaved, again and again."""
    found, half = list(rows), lanes // 2
    halves = [[part + i // 2 + lanes * (i % 2) for i in range(lanes)] for part in (0, lanes - half)]
    width = 1
    while width < lanes:
        found = [
            bind(shuffle([found[i], found[i + half]], order))
            for i in range(half)
            for order in halves
        ]
        width *= 2
    return found

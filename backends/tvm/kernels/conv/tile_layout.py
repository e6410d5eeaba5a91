"""How pixels lie where registers of matrices read them.

A register takes pixels that are equally far apart. So output pixels are counted along rows that are
longer than those of the output, by the *gap* that a window's width leaves, and one register can
hold the end of a row and the beginning of the next. What is computed in a gap is dropped. With
strides, the rows of the padded input are sorted by their remainder, so that the rows of consecutive
windows follow one another in memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import numpy as np
import numpy.typing as npt

from qpc.backends.tvm.kernels.conv.conv_layout import ConvLayout
from qpc.backends.tvm.kernels.conv.padding import PaddedRows
from qpc.backends.tvm.kernels.isa.matrices import MatrixSizes, MatrixTiles


@dataclass(frozen=True)
class TileLayout(ConvLayout):
    """A convolution of any shape, as rows of pixels and runs of their bytes for such registers."""

    @property
    def matrices(self) -> MatrixTiles:
        """The registers, which those who make plans have found to be there."""
        assert self.isa.tiles is not None
        return self.isa.tiles

    @property
    def sizes(self) -> MatrixSizes:
        """Those of the registers."""
        return self.matrices.sizes

    @property
    def images(self) -> int:
        """Number of images, or 1 if all pixels form one matrix."""
        return 1 if self.is_matrix_product else self.shape.n

    @property
    def rows(self) -> int:
        """Rows of an image; a matrix of pixels has one in each row."""
        return self.pixels if self.is_matrix_product else self.shape.oh

    @property
    def columns(self) -> int:
        """Pixels of a row that are in the output."""
        return 1 if self.is_matrix_product else self.shape.ow

    @property
    def gap(self) -> int:
        """Pixels between rows that are computed and dropped."""
        (_, kw), (_, dw) = self.shape.kernel, self.shape.dilation
        return (kw - 1) * dw // self.shape.stride[1]

    @property
    def pitch(self) -> int:
        """Pixels from one row to the next."""
        return self.columns + self.gap

    @property
    def x_step(self) -> int:
        """Bytes from one pixel to the next where the input is read."""
        return self.shape.stride[1] * (self.shape.images.step if self.in_place else self.shape.c)

    @property
    def run_steps(self) -> int:
        """Number of `dot`s per run."""
        return ceil(self.run_bytes / self.sizes.run)

    @property
    def run(self) -> int:
        """Bytes that a `dot` takes of each pixel."""
        depth = self.sizes.depth
        return ceil(self.run_bytes / self.run_steps / depth) * depth

    @property
    def run_starts(self) -> npt.NDArray[np.int64]:
        """Where the bytes of each `dot` begin in a run; those of the last end where the run ends.

        So no `dot` reads beyond a run, unless it is shorter than what the only `dot` takes.
        """
        starts = np.arange(self.run_steps) * self.run
        return np.minimum(starts, max(0, self.run_bytes - self.run))

    @property
    def per_vector(self) -> int:
        """Registers that share the channels of a vector."""
        return self.isa.lanes // self.sizes.lanes

    @property
    def steps(self) -> int:
        """Number of `dot`s per sum."""
        return self.shape.kernel[0] * self.runs * self.run_steps

    @property
    def in_place(self) -> bool:
        """Whether the input is read where it is."""
        fits = self.run <= self.run_bytes and not any(self.shape.padding)
        follow = self.shape.w == self.pitch * self.shape.stride[1] and self.shape.source is None
        rows_follow = self.is_matrix_product or follow
        return fits and rows_follow and self.shape.stride[0] == 1

    @property
    def remainders(self) -> list[int]:
        """Remainders of the numbers of padded input rows that windows see, by the stride."""
        (kh, _), (dh, _), (sh, _) = self.shape.kernel, self.shape.dilation, self.shape.stride
        return sorted({row * dh % sh for row in range(kh)})

    def plane(self, rows: int) -> PaddedRows:
        """The input rows of one remainder that `rows` rows of output see."""
        (kh, _), (dh, _), (sh, sw) = self.shape.kernel, self.shape.dilation, self.shape.stride
        return PaddedRows(rows + (kh - 1) * dh // sh, sh, self.pitch * sw)

    def plane_bytes(self, rows: int) -> int:
        """Size of a plane in scratch memory."""
        plane = self.plane(rows)
        return plane.count * plane.columns * self.shape.c

    def positions(self, rows: int) -> int:
        """Pixels from the first of `rows` rows to the last, with the gaps between rows."""
        return (rows - 1) * self.pitch + self.columns

"""What all dense convolutions share: groups of channels in vectors, and runs of input bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import ceil

import numpy as np
import numpy.typing as npt
from tvm.tirx import Expr

from qpc.backends.tvm.kernels.emit import Flat, Index, shuffle
from qpc.backends.tvm.kernels.epilogue import EpilogueCode
from qpc.backends.tvm.kernels.geometry import ConvShape, tile_start
from qpc.backends.tvm.kernels.isa.base import Isa
from qpc.backends.tvm.kernels.kernel import Array


@dataclass(frozen=True)
class ConvLayout:
    """A convolution of any shape, as vectors of output channels that meet runs of input bytes."""

    isa: Isa
    shape: ConvShape
    threads: int

    @cached_property
    def merged_groups(self) -> int:
        """Groups that share vectors of output channels, with zero weights for each other's inputs.

        A vector costs the same whether its lanes are used or not.
        """
        per_group = self.shape.o // self.shape.groups
        fits = [
            count
            for count in range(1, self.shape.groups + 1)
            if self.shape.groups % count == 0 and count * per_group <= self.isa.lanes
        ]
        return max(fits, default=1)

    @property
    def groups(self) -> int:
        """Number of groups after merging."""
        return self.shape.groups // self.merged_groups

    @property
    def group_inputs(self) -> int:
        """Input channels of a group."""
        return self.shape.c // self.groups

    @property
    def group_outputs(self) -> int:
        """Output channels of a group."""
        return self.shape.o // self.groups

    @property
    def vectors(self) -> int:
        """Vectors of output channels of a group."""
        return ceil(self.group_outputs / self.isa.lanes)

    @property
    def lanes(self) -> int:
        """Lanes of a vector that are output channels."""
        return min(self.isa.lanes, self.group_outputs)

    @property
    def runs(self) -> int:
        """Runs of consecutive bytes that make one kernel row."""
        consecutive = self.groups == 1 and self.shape.dilation[1] == 1
        return 1 if consecutive else self.shape.kernel[1]

    @property
    def run_bytes(self) -> int:
        """Length of a run."""
        return self.shape.kernel[1] * self.group_inputs // self.runs

    @property
    def is_matrix_product(self) -> bool:
        """Whether pixels do not overlap, so that their rows and columns do not matter."""
        shape = self.shape
        in_a_row = shape.places is None or shape.places.follow(shape.oh, shape.ow)
        plain = not any(shape.padding) and in_a_row
        return plain and shape.kernel == shape.stride == (1, 1)

    @property
    def pixels(self) -> int:
        """Pixels of the output, of all images."""
        return self.shape.n * self.shape.oh * self.shape.ow

    def channel(self, vector: Index) -> Index:
        """The first output channel of a vector, within its group; the last vector may overlap."""
        return 0 if self.vectors == 1 else tile_start(vector, self.isa.lanes, self.group_outputs)

    def runs_of_weights(self, weight: npt.NDArray[np.int8]) -> npt.NDArray[np.int8]:
        """weight[o, c // groups, kh, kw] -> [group, vector, lane, kh, run, byte of the run]."""
        kh, kw = self.shape.kernel
        merged = self.merged_groups
        parts = weight.reshape(self.groups, merged, -1, weight.shape[1], kh, kw)
        outputs, inputs = parts.shape[2:4]
        dense = np.zeros((self.groups, merged, outputs, kh, kw, merged, inputs), np.int8)
        for i in range(merged):
            dense[:, i, :, :, :, i] = parts[:, i].transpose(0, 1, 3, 4, 2)
        runs = dense.reshape(self.groups, self.group_outputs, kh, self.runs, self.run_bytes)
        return self._by_vector(runs).astype(np.int8, copy=False)

    def summed_rows(self, weight: npt.NDArray[np.int8]) -> npt.NDArray[np.int8]:
        """Rows [..., n] of the weights in the order in which sums take them.

        weight[o, c // groups, kh, kw], or [1, ...] as an example of all output channels.
        """
        if self.merged_groups > 1 and len(weight) == self.shape.o:
            return self.runs_of_weights(weight)
        rows = weight.transpose(0, 2, 3, 1)
        return rows if self.runs > 1 else rows.reshape(*rows.shape[:2], -1)

    def pack_channels(self, values: Array) -> Array:
        """values[o] -> [unit * vector of the tile * lane]."""
        return self._by_vector(values.reshape(self.groups, self.group_outputs)).reshape(-1)

    def _by_vector(self, values: Array) -> Array:
        """[group, output, ...] -> [group, vector, lane, ...], with zeros in unused lanes."""
        starts = np.array([self.channel(vector) for vector in range(self.vectors)])
        outputs = starts[:, None] + np.arange(self.isa.lanes)
        unused = max(0, self.isa.lanes - self.group_outputs)
        padding = [(0, 0), (0, unused)] + [(0, 0)] * (values.ndim - 2)
        return np.pad(values, padding)[:, outputs]

    def vectors_per_store(self, vectors: int) -> int:
        """Of `vectors` vectors, those that follow one another in the output, stored together."""
        in_order = self.group_outputs % self.isa.lanes == 0
        return min(self.isa.vectors_per_store, vectors) if in_order else 1

    def store_pixel(
        self,
        epilogue: EpilogueCode,
        out: Flat,
        sums: Sequence[Expr],
        multipliers: Sequence[Expr],
        offsets: Sequence[Index],
    ) -> None:
        """Store the outputs of a pixel, of one or more vectors, at these offsets."""
        if epilogue.form.real:
            for acc, multiplier, offset in zip(sums, multipliers, offsets, strict=True):
                value = epilogue.real(acc, multiplier)
                if self.lanes < self.isa.lanes:
                    value = shuffle([value], range(self.lanes))
                out.store(offset, value, self.lanes)
            return
        together = self.vectors_per_store(len(sums))
        for start in range(0, len(sums), together):
            part = slice(start, start + together)
            if epilogue.form.joins:
                others = [self._other(epilogue, offset) for offset in offsets[part]]
                value = epilogue.joined(sums[part], multipliers[part], others, in_order=True)
            else:
                value = epilogue.requantized(sums[part], multipliers[part], in_order=True)
            lanes = len(sums[part]) * self.lanes
            if self.lanes < self.isa.lanes:
                value = shuffle([value], range(lanes))
            out.store(offsets[start], epilogue.stages(value, offsets[start], lanes), lanes)

    def _other(self, epilogue: EpilogueCode, offset: Index) -> Expr:
        """What joins a vector of sums, with anything in lanes that are no output channels."""
        value = epilogue.other(offset, self.lanes)
        if self.lanes == self.isa.lanes:
            return value
        return shuffle([value] * ceil(self.isa.lanes / self.lanes), range(self.isa.lanes))

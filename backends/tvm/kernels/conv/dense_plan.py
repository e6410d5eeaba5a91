"""How a dense convolution is cut into micro-kernels, and how its constants are laid out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from math import ceil
from typing import ClassVar, Self

import numpy as np
import numpy.typing as npt

from qpc.backends.tvm.kernels.conv import nibbles
from qpc.backends.tvm.kernels.conv.conv_layout import ConvLayout
from qpc.backends.tvm.kernels.conv.tiling import (
    ALL_KEPT,
    Blocks,
    Tile,
    best_tiles,
    choose_blocks,
)
from qpc.backends.tvm.kernels.conv.zero_blocks import TermLists, kept_shares
from qpc.backends.tvm.kernels.emit import Index
from qpc.backends.tvm.kernels.geometry import tile_start
from qpc.backends.tvm.kernels.kernel import Array, TensorType


@dataclass(frozen=True)
class DensePlan(ConvLayout):
    """How a convolution is tiled and how its weights are laid out."""

    chosen: Tile | None = None
    """The micro-kernel, if it skips zeros or tuning has chosen another than the cost model."""
    saved: ClassVar[float] = 0.0
    nibbles: bool = False
    """Whether two weights share a byte; only without kernel positions to go through."""

    @property
    def run_steps(self) -> int:
        """Number of `dot`s per run."""
        steps = ceil(self.run_bytes / self.isa.depth)
        return nibbles.even(steps) if self.nibbles else steps

    @property
    def _slack(self) -> int:
        """What the last step of a run reads beyond it."""
        return self.run_steps * self.isa.depth - self.run_bytes

    @property
    def steps(self) -> int:
        """Number of `dot`s per output vector."""
        return self.shape.kernel[0] * self.runs * self.run_steps

    @cached_property
    def tile(self) -> Tile:
        """The micro-kernel."""
        return self.chosen or self.tiles({})[0]

    @property
    def label(self) -> Tile:
        """What tuning calls this plan."""
        return self.tile

    def variants(self, weight: npt.NDArray[np.int8]) -> list[Self]:
        """The plan with each micro-kernel that it can have, the best by cost first."""
        kept = {} if self.nibbles else self.kept(weight)
        return [replace(self, chosen=tile) for tile in self.tiles(kept)]

    def tiles(self, kept: Mapping[int, int]) -> list[Tile]:
        """All micro-kernels that would do, the best by cost first; `kept` as `kept_shares`."""
        return best_tiles(
            self.isa, self.columns, self.vectors, self.steps, kept, nibbles=self.nibbles
        )

    def kept(self, weight: npt.NDArray[np.int8]) -> Mapping[int, int]:
        """What skipping zero blocks of these weights would leave: see `kept_shares`."""
        if weight.all() or self.isa.in_pairs:  # the usual case, quickly
            return {}
        nonzero: npt.NDArray[np.bool_] = np.asarray(self._weight_terms(weight).any((2, 4)))
        return kept_shares(nonzero)

    def skipping(self, kept: Mapping[int, int]) -> Self:
        """The plan that skips zero blocks, if this is faster."""
        best = self.tiles(kept)[0] if kept else None
        return replace(self, chosen=best) if best is not None and best.skips else self

    def packing(self, weight: npt.NDArray[np.int8]) -> Self:
        """The plan with two weights in each byte, if they have four bits and this is faster."""
        takes_bytes = self.isa.unpacks and self.isa.operand is None
        possible = takes_bytes and self.shape.kernel == (1, 1) and not self.tile.skips
        if not possible or not nibbles.fits(weight):
            return self
        packed = replace(self, nibbles=True)
        return packed if packed.time < self.time else self

    @property
    def skipped(self) -> float:
        """The share of all multiplications that are left out."""
        return 1 - self.tile.kept / ALL_KEPT

    @property
    def time(self) -> float:
        """Time of the busiest thread in instructions of a dot, to compare with other plans.

        Weights come from far away and are fetched while others are used.
        """
        rows = self.images * self.rows * self.column_tiles
        turns = ceil(self.tasks / self.threads)
        vectors = self.units * self.tile.vectors * self.steps * min(1, turns / self.blocks.parts)
        fetch = vectors * self.isa.costs.vectors.fetch / (2 if self.nibbles else 1)
        dots = max(rows * self._row_cost * turns / self.tasks, fetch)
        dots += self.isa.costs.sharing.cost(self.tasks, self.threads)
        return dots * self.isa.dot_instructions

    @property
    def _row_cost(self) -> float:
        """Time in dots of one tile of pixels, for all output channels."""
        return self.units * self.tile.cost(self.isa, self.steps, nibbles=self.nibbles)

    @property
    def columns(self) -> int:
        """Pixels in a row of which tiles are cut."""
        shape = self.shape
        return shape.n * shape.oh * shape.ow if self.is_matrix_product else shape.ow

    @property
    def images(self) -> int:
        """Number of images, or 1 if all pixels form one matrix."""
        return 1 if self.is_matrix_product else self.shape.n

    @property
    def rows(self) -> int:
        """Rows of an image, or tiles of the matrix of pixels."""
        return ceil(self.pixels / self.tile.pixels) if self.is_matrix_product else self.shape.oh

    @property
    def column_tiles(self) -> int:
        """Tiles of a row."""
        return 1 if self.is_matrix_product else ceil(self.shape.ow / self.tile.pixels)

    @property
    def w_type(self) -> str:
        """Element type of the packed weights; those that are used once are widened when used."""
        if self.nibbles:
            return "uint8"
        return "int8" if self.tile.pixels == 1 else self.isa.w_type

    @property
    def units(self) -> int:
        """Blocks of output channels, each computed by one micro-kernel per tile of pixels."""
        return self.groups * self.vectors // self.tile.vectors

    @property
    def needs_scratch(self) -> bool:
        """Whether the input cannot be read in place."""
        apart = self.shape.source is not None and not self.is_matrix_product
        fits = not any(self.shape.padding) and self._slack == 0 and not apart
        return not fits or self.isa.x_type != self.isa.activation

    @property
    def x_step(self) -> int:
        """Distance between the inputs of neighbouring outputs, where they are read."""
        pixel = self.shape.c if self.needs_scratch else self.shape.images.step
        return self.shape.stride[1] * pixel

    @property
    def scratch_row(self) -> int:
        """Bytes of an input row in scratch memory."""
        shape = self.shape
        columns = self.tile.pixels if self.is_matrix_product else shape.input_columns(shape.ow)
        return columns * shape.c

    @property
    def x_next_row(self) -> int:
        """Distance between rows where the input is read, in scratch memory or in place."""
        return self.scratch_row if self.needs_scratch else self.shape.w * self.shape.c

    @property
    def scratch_size(self) -> int:
        """Elements of the scratch memory, with room to read past the last run."""
        return self.shape.input_rows(self.blocks.rows) * self.scratch_row + self._slack

    @property
    def fetched(self) -> int:
        """Vectors of the next unit's weights that each step fetches into a cache.

        Nothing where enough is computed with each weight to hide the time until the next arrive,
        and where their place is not known.
        """
        passes = self.blocks.rows * self.column_tiles
        last = self.units == self.blocks.parts
        most = self.isa.costs.vectors.fetched_passes
        if passes > most or last or self.nibbles or self.tile.skips:
            return 0
        return ceil(self.tile.vectors / passes)

    @cached_property
    def blocks(self) -> Blocks:
        """The tasks."""
        return choose_blocks(
            images=self.images,
            rows=self.rows,
            channel_blocks=self.units,
            row_cost=self.column_tiles * self._row_cost,
            bytes_per_row=self.shape.stride[0] * self.scratch_row * self.isa.x_bytes,
            extra_bytes=(self.shape.reach[0] - self.shape.stride[0])
            * self.scratch_row
            * self.isa.x_bytes,
            copies=self.needs_scratch,
            threads=self.threads,
            costs=self.isa.costs,
        )

    @property
    def row_blocks(self) -> int:
        """Blocks of rows of an image."""
        return ceil(self.rows / self.blocks.rows)

    @property
    def tasks(self) -> int:
        """Number of tasks."""
        return self.images * self.row_blocks * self.blocks.parts

    def input_offset(self, image: Index, row: Index) -> Index:
        """Where a row of the input begins that is read in place."""
        if self.is_matrix_product:
            pixel = tile_start(row, self.tile.pixels, self.pixels)
            return pixel * self.shape.images.step + self.shape.images.first
        return (image * self.shape.h + row) * (self.shape.w * self.shape.c)

    def output_offset(self, image: Index, row: Index) -> Index:
        """Where a row of the output begins."""
        if self.is_matrix_product:
            first = self.shape.places.first if self.shape.places else 0
            return tile_start(row, self.tile.pixels, self.pixels) * self.shape.output_step + first
        return self.shape.output_offset(image, row)

    def pack_weight(self, weight: npt.NDArray[np.int8]) -> tuple[Array, ...]:
        """weight[o, c // groups, kh, kw] -> [unit, term, vector of tile, lane, depth].

        If the tile skips zeros, only what is left of it, with the other arrays of `TermLists`; if
        weights are `nibbles`, half as many terms.
        """
        terms = self._weight_terms(weight)
        packed = terms.reshape(
            self.units, self.tile.vectors, self.isa.lanes, self.steps, self.isa.depth
        ).transpose(0, 3, 1, 2, 4)
        packed = self.isa.arranged(packed)
        if self.nibbles:
            return (nibbles.pack(packed),)
        packed = np.ascontiguousarray(packed, self.w_type)
        if not self.tile.skips:
            return (packed,)
        lists = TermLists.of(packed, self._places, self._capacity)
        return lists.weight, lists.places, lists.starts

    def _weight_terms(self, weight: npt.NDArray[np.int8]) -> npt.NDArray[np.int8]:
        """weight[o, c // groups, kh, kw] -> [group, vector, lane, term, depth]."""
        runs = self.runs_of_weights(weight)
        padded = np.pad(runs, [(0, 0)] * (runs.ndim - 1) + [(0, self._slack)])
        shape = (self.groups, self.vectors, self.isa.lanes, self.steps, self.isa.depth)
        return padded.reshape(shape)

    @property
    def _places(self) -> npt.NDArray[np.int64]:
        """Where the activations of each term are, as offsets from those of the first."""
        rows, runs = np.arange(self.shape.kernel[0]), np.arange(self.runs)
        steps = np.arange(self.run_steps) * self.isa.depth
        dh, dw = self.shape.dilation
        starts = (rows * (dh * self.x_next_row))[:, None] + runs * (dw * self.shape.c)
        places: npt.NDArray[np.int64] = (starts[..., None] + steps).reshape(-1)
        return places

    @property
    def _capacity(self) -> int:
        """Terms that the lists of a tile that skips zeros have room for."""
        return ceil(self.units * self.steps * self.tile.kept / ALL_KEPT)

    @property
    def param_types(self) -> tuple[TensorType, ...]:
        """The types of the packed weight, with its lists if there are any, bias and multiplier."""
        lanes = self.units * self.tile.vectors * self.isa.lanes
        block = (self.tile.vectors, self.isa.lanes, self.isa.depth)
        weight: tuple[TensorType, ...]
        if self.tile.skips:
            weight = (
                TensorType((self._capacity, *block), self.w_type),
                TensorType((self._capacity,), "int32"),
                TensorType((self.units + 1,), "int32"),
            )
        else:
            terms = self.steps // 2 if self.nibbles else self.steps
            weight = (TensorType((self.units, terms, *block), self.w_type),)
        return (*weight, TensorType((lanes,), "int32"), TensorType((lanes,), "float32"))

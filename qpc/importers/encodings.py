"""`qpc.import_encodings`: grids from a file of encodings, in place of calibration."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch.fx import GraphModule

from qpc.analysis.coverage import layers_with_weights
from qpc.analysis.given_grids import WeightGrid
from qpc.base import PassContext
from qpc.batches import Batch
from qpc.effort import tidying
from qpc.errors import ArtifactError, ConfigError
from qpc.exporting.encodings import read_encodings
from qpc.exporting.grids import TensorGrid
from qpc.facts import require_graph, require_unquantized
from qpc.files import read_regular
from qpc.layers import weighted
from qpc.meta import value_name
from qpc.passes import ImportGrids
from qpc.pipeline import Pipeline
from qpc.quant.config import QuantConfig
from qpc.quant.grid import QParams, nearest_scale
from qpc.recipes import with_given_grids

_LARGEST = 1 << 28
"""Bytes of a file: a hundred times what the grids of a large model take."""


def import_encodings(
    gm: GraphModule,
    path: str | os.PathLike[str],
    batches: Iterable[Batch] | None = None,
    config: QuantConfig | None = None,
    ctx: PassContext | None = None,
) -> GraphModule:
    """Return a traced float graph as an integer graph, on the grids of a file of encodings.

    path: JSON as AIMET and `qpc.export(form="onnx-float")` write it, of version 0.6.1, 1.0.0 or
    2.0.0. Its names are those of the values and parameters of the traced graph, such as "relu" and
    "stem.weight"; what it says of others is reported, as are tensors that it leaves in float.
    Weights are rounded from -127 to 127, or as their bits have it, also if the file has one more
    point below.
    batches: calibrate values that an integer operator needs and of which the file has no grid.
    None leaves such operators in float.
    config: for these values, and for what is to stay in float all the same.
    ctx: collects the reports.

    Raises ArtifactError for a file that cannot be read or holds no encodings for this graph.
    """
    require_graph(gm, "import_encodings")
    require_unquantized(gm)
    source = Path(path).name
    grids = read_encodings(read_regular(Path(path), _LARGEST), source)
    tidy = Pipeline(tidying()).run(gm, ctx)
    values, weights = _sorted_out(tidy, grids, source, ctx)
    passes = ImportGrids(values, weights, batches is not None, config or QuantConfig())
    return with_given_grids(tidy, (passes,), batches, ctx)


def _sorted_out(
    gm: GraphModule, grids: Iterable[TensorGrid], source: str, ctx: PassContext | None
) -> tuple[dict[str, QParams], dict[str, WeightGrid]]:
    """The grids of values and of weights that a graph has."""
    named = {value_name(n) for n in gm.graph.nodes if n.op not in ("get_attr", "output")}
    axes = _output_axes(gm)
    values: dict[str, QParams] = {}
    weights: dict[str, WeightGrid] = {}
    for grid in grids:
        if grid.tensor in axes:
            weights[grid.tensor] = _weight(grid, axes[grid.tensor], source)
        elif grid.tensor in named:
            values[grid.tensor] = _value(grid, source)
        elif ctx is not None:
            ctx.decline(grid.tensor, f"{source} has a grid for it, and the graph no such tensor")
    if not weights:
        raise ArtifactError(
            f"{source} has no grid for any weight of this graph",
            fix="its names must be those of the graph's parameters, such as"
            f" {next(iter(axes), 'conv.weight')!r}",
        )
    return values, weights


def _output_axes(gm: GraphModule) -> Mapping[str, int]:
    """The weights of the graph's layers, with the axis that runs over output channels."""
    views = [view for n in layers_with_weights(gm) if (view := weighted(n)) is not None]
    return {str(v.weight.target): v.output_axis for v in views if v.weight.op == "get_attr"}


def _weight(grid: TensorGrid, axis: int, source: str) -> WeightGrid:
    if grid.bits > _BYTE or not grid.symmetric:
        raise ArtifactError(
            f"{source}: the grid of {grid.tensor!r} has {grid.bits} bits and the zero point"
            f" {grid.zero_point - grid.lo}, and weights are symmetric, of 8 bits at most",
            fix="write symmetric encodings of 8 bits for weights",
        )
    return WeightGrid(torch.tensor(grid.scales), -grid.hi, grid.hi, axis)


def _value(grid: TensorGrid, source: str) -> QParams:
    """The same reals on integers that count from 0."""
    if grid.bits > _BYTE or len(grid.scales) > 1:
        raise ArtifactError(
            f"{source}: the grid of {grid.tensor!r} has {grid.bits} bits and {len(grid.scales)}"
            " scales, and values have 8 bits at most, and one",
            fix="write encodings of 8 bits, or leave this one out, so that batches calibrate it",
        )
    ends = grid.zero_point - grid.lo, 0, grid.hi - grid.lo
    try:
        return QParams(nearest_scale(grid.scales[0]), *ends, torch.uint8)
    except ConfigError as e:
        raise ArtifactError(
            f"{source}: {grid.tensor!r}: {e.what}",
            fix="correct it, or leave it out, so that batches calibrate it",
        ) from e


_BYTE = 8

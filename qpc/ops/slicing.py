"""Slices, and what replaces them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.fx import Node

from qpc.calls import arguments, aten, set_arguments
from qpc.channels.atoms import Labels, spread, varying_axes
from qpc.channels.flow import describe
from qpc.ops.movement import MOVE, moving, run
from qpc.registry import OpSpec, Through, overloads

if TYPE_CHECKING:
    from qpc.channels.flow import Flow
    from qpc.channels.removal import Removal

_END = torch.iinfo(torch.int64).max
"""Where slices without an end are said to end."""


def _slice(flow: Flow, node: Node) -> Labels:
    """With steps, what is picked and what follows it up to the next pick go together."""
    given = arguments(node)
    _tie_steps(flow, node, given["self"])
    return run(flow, node, flow.of)


def _slice_scatter(flow: Flow, node: Node) -> Labels:
    """A slice replaced by other values: both have the same channels there."""
    given = arguments(node)
    _tie_steps(flow, node, given["self"])
    labels, source = flow.of(given["self"]), flow.of(given["src"])
    axes = varying_axes(labels)
    if axes:
        source = spread(flow.line(node, given["src"], axes[-1]), axes[-1], source.shape)
    bounds = (given["dim"], given["start"], given["end"], given["step"])
    replaced = aten.slice.Tensor(labels, *bounds)
    flow.atoms.unite(replaced, source, f"{describe(node)} meets a tensor whose size is fixed")
    return flow.atoms.find(labels)


def _tie_steps(flow: Flow, node: Node, value: Node) -> None:
    given = arguments(node)
    labels, step = flow.of(value), given["step"]
    axis = given["dim"] % labels.dim()
    bounds = (given["start"], given["end"])
    if step == 1 or axis not in varying_axes(labels):
        return
    if any(isinstance(bound, Node) for bound in bounds):
        flow.decline(node, labels, f"{describe(node)} has steps and bounds that are computed")
        return
    line = flow.line(node, value, axis)
    first, last, step = slice(*bounds, step).indices(len(line))
    for block in line[first:last].split(step):
        flow.atoms.unite(block, block[:1], f"{describe(node)} has steps")


def _select(flow: Flow, node: Node) -> Labels:
    """One index of an axis; a channel picked alone has to stay."""
    return run(flow, node, flow.of)


def _shrink_slice(removal: Removal, node: Node) -> None:
    """The bounds count the channels kept before them; steps lose only whole steps."""
    given = arguments(node)
    stays = removal.kept(given["self"])
    axis = int(given["dim"]) % len(stays)
    if bool(stays[axis].all()) or not all(isinstance(given[n], int) for n in ("start", "end")):
        return
    bounds = slice(given["start"], given["end"], given["step"])
    first, last, _ = bounds.indices(len(stays[axis]))
    start, end = int(stays[axis][:first].sum()), int(stays[axis][:last].sum())
    set_arguments(node, dim=axis, start=start, end=end)


def _shrink_select(removal: Removal, node: Node) -> None:
    given = arguments(node)
    stays = removal.kept(given["self"])
    axis = int(given["dim"]) % len(stays)
    index = int(given["index"]) % len(stays[axis])
    if not bool(stays[axis].all()):
        set_arguments(node, index=int(stays[axis][:index].sum()))


def _slice_keeps_size(node: Node, before: tuple[int, ...], now: tuple[int, ...]) -> bool:
    given = arguments(node)
    axis, end = given["dim"] % len(before), given["end"]
    return before[axis] != now[axis] and isinstance(end, int) and 0 < end < _END


# --- files ----------------------------------------------------------------------------------------

_MOST_PIECES = 4096


def _refuse_many_pieces(given: Mapping[str, Any]) -> str | None:
    """Each of them would be an object."""
    source, dim = given.get("self"), given.get("dim", 0)
    if not isinstance(source, Tensor) or not isinstance(dim, int) or not source.dim():
        return None
    length = source.shape[dim] if -source.dim() <= dim < source.dim() else 0
    size, count = given.get("split_size"), given.get("chunks", given.get("sections", length))
    if isinstance(size, int):
        count = length // max(size, 1)
    if isinstance(count, int) and min(count, length) > _MOST_PIECES:
        return f"would make more than {_MOST_PIECES} pieces"
    return None


_PIECES = (
    "chunk split.Tensor split.sizes split.str split split_with_sizes tensor_split.sections "
    "tensor_split.indices tensor_split.tensor_indices_or_sections unbind.int unsafe_chunk "
    "unsafe_split.Tensor unsafe_split_with_sizes"
)
SPECS = (
    OpSpec(
        aten.slice.Tensor,
        quantization=MOVE,
        exact=True,
        channels=_slice,
        shrink=_shrink_slice,
        through=Through.ROWS,
        picks=True,
        keeps_size=_slice_keeps_size,
    ),
    moving(aten.select.int, _select, _shrink_select),
    OpSpec(aten.slice_scatter.default, channels=_slice_scatter, shrink=_shrink_slice),
    *(OpSpec(t, refuse_in_files=_refuse_many_pieces) for t in overloads(_PIECES)),
)

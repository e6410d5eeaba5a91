"""Concatenation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.fx import Node

from qpc.calls import Arg, OpView, aten
from qpc.channels.atoms import NONE, Labels, compact, spread, varying_axes
from qpc.channels.flow import describe
from qpc.ops.arithmetic import refuse_parameters
from qpc.registry import OpSpec, Quantization, Role

if TYPE_CHECKING:
    from qpc.channels.flow import Flow
    from qpc.conversion import Conversion


class Cat(OpView, of=aten.cat.default):
    """Concatenation along `dim`."""

    tensors = Arg[list[Node]]()
    dim = Arg[int]()


def _convert(conversion: Conversion) -> Node:
    view = Cat(conversion.node)
    pieces = [conversion.brought_to_grid(value) for value in view.tensors]
    return conversion.again(pieces, view.dim)


# --- channels -------------------------------------------------------------------------------------


def _channels(flow: Flow, node: Node) -> Labels:
    """Pieces one after the other along the channels, or of equal channels along another axis."""
    view = Cat(node)
    pieces = [flow.of(t) for t in view.tensors]
    dim = view.dim % pieces[0].dim()
    axis = _axis_of_pieces(pieces, dim)
    if axis is None:
        return compact(torch.cat([p.contiguous() for p in pieces], dim))
    lines = [flow.line_of(node, piece, axis) for piece in pieces]
    if axis == dim:
        return spread(torch.cat(lines), dim, flow.shape(node))
    fixed = any(bool((line == NONE).all()) for line in lines)
    why = "meets a tensor whose size is fixed" if fixed else "needs equal sizes"
    for line in lines[1:]:
        flow.atoms.unite(lines[0], line, f"{describe(node)} {why}")
    return spread(flow.atoms.find(lines[0]), axis, flow.shape(node))


def _axis_of_pieces(pieces: list[Labels], dim: int) -> int | None:
    """The axis of the channels; `dim` if nothing has any, None if parameters have not decided."""
    axes = [varying_axes(piece) for piece in pieces]
    single = [each[0] for each in axes if len(each) == 1]
    return single[0] if single else None if any(axes) else dim


SPECS = (
    OpSpec(
        aten.cat.default,
        quantization=Quantization(
            Role.COMBINE, refuse_parameters, _convert, joins_grids=True, leaves_values=True
        ),
        view=Cat,
        channels=_channels,
        exact=True,
        picks=True,
    ),
    OpSpec(aten.stack.default, exact=True),
)

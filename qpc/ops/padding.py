"""Padding, with one value or with values of the input."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.fx import Node

from qpc.calls import Arg, Ints, OpView, aten, set_arguments
from qpc.channels.atoms import Labels, nothing, spread, varying_axes
from qpc.channels.flow import describe, pin_inputs
from qpc.meta import info
from qpc.ops.movement import refuse_parameters
from qpc.ops.pooling import window
from qpc.ops.resize import resample
from qpc.registry import OpSpec, Quantization, Role, overloads

if TYPE_CHECKING:
    from qpc.analysis.integer_proofs import IntegerProof
    from qpc.channels.flow import Flow
    from qpc.channels.removal import Removal
    from qpc.conversion import Conversion


class Pad(OpView, of=aten.constant_pad_nd.default):
    """Padding with one value; `pad` counts from the last axis: (left, right, top, bottom, ...)."""

    input = Arg[Node]("self")
    pad = Ints()
    value = Arg[float]()


def zero_padding(node: Node) -> list[int] | None:
    """Top, left, bottom, right: what a padding of height and width alone adds, with real zeros.

    Of integers these are zero points. None for anything else; what it adds is not negative.
    """
    pad, grid = Pad.of(node), info(node).qparams
    if pad is None or len(pad.pad) > 4 or grid is None or pad.value != grid.zero_point:
        return None
    left, right, top, bottom = (*pad.pad, 0, 0)[:4]
    return [top, left, bottom, right] if min(left, right, top, bottom) >= 0 else None


class PadByValues(OpView, of=aten.pad.default):
    """Padding with values of the input: by reflection, by repetition of the border, or around."""

    input = Arg[Node]("self")
    pad = Ints()
    mode = Arg[str]()


def _refuse_pad(node: Node) -> str | None:
    value = Pad(node).value
    return f"it pads with {value}, not with 0" if value != 0 else refuse_parameters(node)


def _refuse_by_values(node: Node) -> str | None:
    if len(PadByValues(node).pad) != 4 or len(info(node).shape or ()) != 4:
        return "it pads something else than the rows and columns of images"
    return refuse_parameters(node)


def _convert_pad(conversion: Conversion) -> Node:
    pad = Pad(conversion.node)
    value = conversion.integers[pad.input]
    return conversion.again(value, list(pad.pad), conversion.grid.zero_point)


# --- channels -------------------------------------------------------------------------------------


def _pad(flow: Flow, node: Node) -> Labels:
    """Padding along channels makes channels that hold a constant; they may go like any other."""
    view = Pad(node)
    labels, shape = flow.of(view.input), flow.shape(node)
    amounts = _pad_amounts(view.pad, len(shape))
    axes = varying_axes(labels)
    if not axes:
        return nothing(shape)
    axis = axes[-1]
    line = flow.line(node, view.input, axis)
    before, after = amounts.get(axis, (0, 0))
    line = line[max(0, -before) : len(line) - max(0, -after)]
    made = [flow.new(max(0, before)), line, flow.new(max(0, after))]
    return spread(torch.cat(made), axis, shape)


def _pad_amounts(pad: tuple[int, ...], rank: int) -> dict[int, tuple[int, int]]:
    """What is added before and after, by axis."""
    return {rank - 1 - i // 2: (pad[i], pad[i + 1]) for i in range(0, len(pad), 2)}


def _pad_by_values(flow: Flow, node: Node) -> Labels:
    """Reflected, repeated or circular padding of other axes than that of the channels."""
    labels, shape = flow.of(node.all_input_nodes[0]), flow.shape(node)
    axes = varying_axes(labels)
    if any(labels.shape[axis] != shape[axis] for axis in axes):
        return pin_inputs(flow, node, f"{describe(node)} repeats channels")
    if not axes:
        return nothing(shape)
    line = flow.line(node, node.all_input_nodes[0], axes[-1])
    return spread(line, axes[-1], shape)


def _shrink_pad(removal: Removal, node: Node) -> None:
    """What is added or cropped along channels counts those kept."""
    view = Pad(node)
    source, padded = removal.kept(view.input), removal.kept(node)
    amounts = list(view.pad)
    for axis, (before, after) in _pad_amounts(view.pad, len(padded)).items():
        old, new = source[axis], padded[axis]
        first = new[:before] if before >= 0 else old[:-before]
        last = new[len(new) - after :] if after >= 0 else old[len(old) + after :]
        counts = [int(first.sum()), int(last.sum())]
        place = 2 * (len(padded) - 1 - axis)
        signs = [1 if amount >= 0 else -1 for amount in (before, after)]
        amounts[place : place + 2] = [c * s for c, s in zip(counts, signs, strict=True)]
    if tuple(amounts) != view.pad:
        set_arguments(node, pad=amounts)


def _padded(proof: IntegerProof, node: Node) -> tuple[int, int]:
    pad = Pad(node)
    least, greatest = proof.range(pad.input)
    return min(least, int(pad.value)), max(greatest, int(pad.value))


_BY_VALUES = (
    "reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d replication_pad2d "
    "replication_pad3d"
)
SPECS = (
    OpSpec(
        aten.constant_pad_nd.default,
        "pad",
        Quantization(Role.MOVE, _refuse_pad, _convert_pad),
        Pad,
        exact=True,
        channels=_pad,
        shrink=_shrink_pad,
        picks=True,
        bounds=_padded,
    ),
    OpSpec(
        aten.pad.default,
        quantization=Quantization(Role.MOVE, _refuse_by_values, resample),
        view=PadByValues,
        exact=True,
        channels=_pad_by_values,
    ),
    *(OpSpec(t, channels=window) for t in overloads(_BY_VALUES)),
)

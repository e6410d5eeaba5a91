"""What elementwise operators, reductions and windows do to channel labels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.fx import Node

from qpc.calls import arguments
from qpc.channels.atoms import (
    NONE,
    Labels,
    along,
    collapse,
    compact,
    nothing,
    spread,
    varying_axes,
)
from qpc.channels.flow import Flow, describe, pin_inputs


def elementwise(flow: Flow, node: Node) -> Labels:
    """Channels at equal places go together."""
    sources: list[Node | Labels] = [n for n in node.all_input_nodes if flow.is_tensor(n)]
    return join(flow, node, sources, torch.Size(flow.shape(node)))


def first_input(flow: Flow, node: Node) -> Labels:
    """The value has the channels of the first argument."""
    return flow.of(node.all_input_nodes[0])


@dataclass(frozen=True)
class _Operand:
    """An argument that is broadcast to `shape`.

    labels: in the rank of the result; stretched: the axes along which it is repeated; varying:
    those along which its labels change.
    """

    labels: Labels
    stretched: frozenset[int]

    @property
    def varying(self) -> list[int]:
        return varying_axes(self.labels)

    @property
    def empty(self) -> bool:
        return bool((collapse(self.labels)[0] == NONE).all())


def join(flow: Flow, node: Node, sources: list[Node | Labels], shape: torch.Size) -> Labels:
    """Tie the channels of operands that are broadcast against each other.

    The channels of the result are on one axis. An operand of length 1 there takes part in all of
    them; one that has channels elsewhere keeps these.
    """
    later = [s for s in sources if isinstance(s, Node) and _is_unplaced(flow, s)]
    operands = [_operand(flow, s, shape) for s in sources if not any(s is x for x in later)]
    axis = _channel_axis(flow, operands)
    if axis is None:  # parameters alone, or nothing that has several channels
        operands += [_operand(flow, s, shape) for s in later]
        if (axis := _channel_axis(flow, operands)) is None:
            return _join_everywhere(flow, node, operands, shape)
        later = []
    line = _main_line(flow, operands, axis)
    for operand in operands:
        _join_one(flow, node, operand, axis, line)
    for source in later:
        _place(flow, node, source, axis, line, shape)
    return spread(flow.atoms.find(line), axis, shape)


def _operand(flow: Flow, source: Node | Labels, shape: torch.Size) -> _Operand:
    labels = flow.of(source) if isinstance(source, Node) else source
    padded = labels.reshape((1,) * (len(shape) - labels.dim()) + tuple(labels.shape))
    stretched = [a for a, size in enumerate(shape) if size != 1 and padded.shape[a] == 1]
    return _Operand(compact(padded), frozenset(stretched))


def _is_unplaced(flow: Flow, source: Node) -> bool:
    """Whether a parameter could take any of several axes for its channels."""
    if source.op != "get_attr":
        return False
    wide = sum(size > 1 for size in flow.shape(source))
    return wide > 1 and not flow.has_labels(source)


def _channel_axis(flow: Flow, operands: list[_Operand]) -> int | None:
    """The axis on which most operands agree, those that are surely channels first."""
    single = [o for o in operands if len(o.varying) == 1]
    if len({o.varying[0] for o in single}) > 1:
        sure = [o for o in single if not flow.is_imagined(o.labels)]
        single = [o for o in sure if not flow.atoms.fixed(o.labels)] or sure or single
    return single[0].varying[0] if single else None


def _main_line(flow: Flow, operands: list[_Operand], axis: int) -> Labels:
    return next(along(o.labels, axis) for o in operands if o.varying == [axis])


def _join_one(flow: Flow, node: Node, operand: _Operand, axis: int, line: Labels) -> None:
    """Tie one operand to the channels of the result, or see that it keeps what it has."""
    if axis in operand.stretched:
        reason = f"{describe(node)} repeats its only channel"
        if operand.varying:
            reason = f"{describe(node)} has channels on another axis"
        flow.decline(node, operand.labels, reason)
        return
    if not operand.empty and axis not in operand.varying:
        reason = f"{describe(node)} has channels on another axis"
        flow.decline(node, operand.labels, reason)
        flow.decline(node, line, reason)
        return
    spreaded = spread(line, axis, tuple(operand.labels.shape))
    why = f"{describe(node)} meets a tensor whose size is fixed"
    if operand.empty:
        flow.decline(node, line, why)
    flow.atoms.unite(spreaded, operand.labels, why)


def _place(
    flow: Flow, node: Node, source: Node, axis: int, line: Labels, shape: torch.Size
) -> None:
    """Let a parameter have its channels where the other operands have them."""
    own = axis - (len(shape) - len(flow.shape(source)))
    if own < 0 or flow.shape(source)[own] == 1:
        return
    if not flow.place(source, own, line):
        _join_one(flow, node, _operand(flow, source, shape), axis, line)


def _join_everywhere(flow: Flow, node: Node, operands: list[_Operand], shape: torch.Size) -> Labels:
    """Tie element by element: operands without an axis, or with several, as parameters have."""
    result: Labels | None = None
    why = f"{describe(node)} meets a tensor whose size is fixed"
    for operand in operands:
        if operand.stretched and (operand.empty or not operand.varying):
            flow.decline(node, operand.labels, f"{describe(node)} repeats its only channel")
        elif result is None:
            result = operand.labels.expand(shape)
        else:
            flow.atoms.unite(result, operand.labels, why)
    return nothing(shape) if result is None else flow.atoms.find(result)


# --- reductions and windows -----------------------------------------------------------------------


def reduce(flow: Flow, node: Node) -> Labels:
    """Sums and means over channels see fewer of them; over other axes they keep channels."""
    given, value = arguments(node), node.all_input_nodes[0]
    labels, dims = flow.of(value), given.get("dim")
    rank = labels.dim()
    reduced = {d % rank for d in ([dims] if isinstance(dims, int) else dims or range(rank))}
    kept = [a for a in varying_axes(labels) if a not in reduced]
    if kept:
        labels = spread(flow.line(node, value, kept[-1]), kept[-1], labels.shape)
    for axis in reduced:
        first = labels.narrow(axis, 0, 1)
        labels = torch.full_like(first, NONE) if axis in varying_axes(labels) else first
    if not given.get("keepdim", False):
        for axis in sorted(reduced, reverse=True):
            labels = labels.squeeze(axis)
    return labels


def window(flow: Flow, node: Node) -> Labels:
    """Pooling and resizing work on the last axes and leave channels alone."""
    return spread(flow.line(node, node.all_input_nodes[0], 1), 1, flow.shape(node))


def pad_by_values(flow: Flow, node: Node) -> Labels:
    """Reflected, repeated or circular padding of other axes than that of the channels."""
    labels, shape = flow.of(node.all_input_nodes[0]), flow.shape(node)
    axes = varying_axes(labels)
    if any(labels.shape[axis] != shape[axis] for axis in axes):
        return pin_inputs(flow, node, f"{describe(node)} repeats channels")
    if not axes:
        return nothing(shape)
    line = flow.line(node, node.all_input_nodes[0], axes[-1])
    return spread(line, axes[-1], shape)


def gated_halves(flow: Flow, node: Node) -> Labels:
    """Half of the channels multiply the other half."""
    value, dim = node.all_input_nodes[0], arguments(node)["dim"]
    labels = flow.of(value)
    if dim % labels.dim() not in varying_axes(labels):
        return labels.narrow(dim, 0, labels.shape[dim] // 2)
    halves = flow.line(node, value, dim).reshape(2, -1)
    flow.atoms.unite(halves[0], halves[1], f"{describe(node)} multiplies halves")
    return spread(flow.atoms.find(halves[0]), dim, flow.shape(node))


def best_along(flow: Flow, node: Node) -> Labels:
    """Maxima, or sorted values, with their places: along the channels their numbers matter."""
    value, given = node.all_input_nodes[0], arguments(node)
    labels, dim = flow.of(value), given["dim"]
    axes = varying_axes(labels)
    if dim is None or dim % labels.dim() in axes:
        return pin_inputs(flow, node, f"{describe(node)} numbers channels")
    picked = labels.narrow(dim, 0, 1)
    return picked if given.get("keepdim", True) else picked.squeeze(dim)


def sampled(flow: Flow, node: Node) -> Labels:
    """Every channel is read at the same places, which stay."""
    given = arguments(node)
    places = flow.of(given["grid"])
    flow.decline(node, places, f"{describe(node)} reads channels as places")
    return spread(flow.line(node, given["input"], 1), 1, flow.shape(node))


def windows_with_places(flow: Flow, node: Node) -> Labels:
    """Maxima in windows, with their places: two values of the same channels."""
    value = node.all_input_nodes[0]
    line = flow.line(node, value, 1)
    return spread(line, 1, (1, len(line), *[1] * (len(flow.shape(value)) - 2)))


def item(flow: Flow, node: Node) -> Labels:
    """One of several results."""
    source = node.all_input_nodes[0]
    if source not in flow.values:
        return nothing(flow.shape(node))
    return compact(flow.of(source)).expand(flow.shape(node))


def scan(flow: Flow, node: Node) -> Labels:
    """A running sum depends on what comes before, so that channels along its axis have to stay."""
    value, dim = node.all_input_nodes[0], arguments(node)["dim"]
    labels = flow.of(value)
    if dim % labels.dim() in varying_axes(labels):
        flow.decline(node, labels, f"{describe(node)} runs over channels")
        return nothing(labels.shape)
    return labels

"""Operators that move values without changing them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch._ops import OpOverload
from torch.fx import Node
from torch.fx.node import map_arg

from qpc.calls import Arg, OpView, arguments, aten, set_arguments
from qpc.channels.atoms import (
    Labels,
    along,
    compact,
    distinct,
    nothing,
    only_along,
    spread,
    varying_axes,
)
from qpc.channels.flow import LARGEST_FREE, describe, pin_inputs
from qpc.meta import info
from qpc.ops.convolution import shrink_groups
from qpc.ops.pointwise import first_input
from qpc.registry import OpSpec, Quantization, Role, Through, overloads, spec_of
from qpc.types import BatchDim

if TYPE_CHECKING:
    from qpc.channels.flow import Flow
    from qpc.channels.removal import Removal
    from qpc.conversion import Conversion


class Reshape(OpView, of=aten.reshape.default):
    """View, flatten, squeeze and unsqueeze are reshapes in core form."""

    input = Arg[Node]("self")
    shape = Arg[list[int | Node]]()


class Dropout(OpView, of=aten.dropout.default):
    """Dropout; the identity unless `train`."""

    input = Arg[Node]()
    p = Arg[float]()
    train = Arg[bool]()


def refuse_parameters(node: Node) -> str | None:
    """Why an operator that moves values must stay in float."""
    if any(n.op == "get_attr" for n in node.all_input_nodes):
        return "it moves a parameter"
    return None


def _refuse_dropout(node: Node) -> str | None:
    return "dropout is in training mode" if Dropout(node).train else refuse_parameters(node)


def move(conversion: Conversion) -> Node:
    """The same operator, on integers."""
    node = conversion.node
    args = map_arg(node.args, lambda source: conversion.integers[source])
    return conversion.again(*args, **node.kwargs)


MOVE = Quantization(Role.MOVE, refuse_parameters, move, leaves_values=True)
"""Of operators that move values in the same way whatever they are."""

# --- channels -------------------------------------------------------------------------------------


def carry(flow: Flow, node: Node) -> Labels:
    """Run the operator on labels."""
    return _one_axis(flow, node, run(flow, node, flow.of))


def run(flow: Flow, node: Node, labels: Callable[[Node], Labels]) -> Labels:
    """What the operator makes of the labels of its inputs."""
    values = {n: labels(n) if flow.is_tensor(n) else flow.size(n) for n in node.all_input_nodes}
    known: Any = values.__getitem__
    args, kwargs = map_arg(node.args, known), map_arg(node.kwargs, known)
    return compact(node.target(*args, **kwargs))  # type: ignore[operator]  # it is an overload


def _one_axis(flow: Flow, node: Node, labels: Labels) -> Labels:
    """Tie channels that are spread over several axes so that slices along one of them can go."""
    axes = varying_axes(labels)
    if len(axes) < 2 or len(varying_axes(flow.of(node.all_input_nodes[0]))) > 1:
        return labels
    chosen = _axis_in_products(flow, node, labels, batch=flow.prunes_heads(node))
    if chosen is None:
        chosen = max(axes, key=lambda axis: (distinct(along(labels, axis)), axis))
    why = f"{describe(node)} mixes channels with a fixed size"
    flow.atoms.unite(labels, only_along(labels, chosen), why)
    return flow.atoms.find(labels)


def _pixel_shuffle(flow: Flow, node: Node) -> Labels:
    """Each channel of the result is made of several, which go together."""
    labels = run(flow, node, flow.of)
    flow.atoms.unite(labels, only_along(labels, -3), f"{describe(node)} mixes channels")
    return flow.atoms.find(labels)


def _reshape(flow: Flow, node: Node) -> Labels:
    """The labels in another shape."""
    source = flow.of(node.all_input_nodes[0])
    return _one_axis(flow, node, compact(source.reshape(flow.shape(node))))


def _repeat_each(flow: Flow, node: Node) -> Labels:
    """Each channel several times; a number of results that is given would have to be known."""
    if arguments(node)["output_size"] is not None:
        return pin_inputs(flow, node, f"{describe(node)} is told the size of its result")
    return carry(flow, node)


def _channel_shuffle(flow: Flow, node: Node) -> Labels:
    """The groups that are shuffled stay equal."""
    given = arguments(node)
    line = flow.line(node, given["self"], 1)
    groups = line.reshape(int(given["groups"]), -1)
    most = groups[:, :1] if len(groups) > groups.shape[1] else groups[:1]
    flow.atoms.unite(groups, most, f"{describe(node)} needs equal groups")
    return spread(flow.atoms.find(groups).t().reshape(-1), 1, flow.shape(node))


def _expand(flow: Flow, node: Node) -> Labels:
    """Repeated elements are channels of their own where the original has none."""
    labels, shape = flow.of(node.all_input_nodes[0]), flow.shape(node)
    old = (1,) * (len(shape) - labels.dim()) + tuple(labels.shape)
    grown = [a for a, size in enumerate(shape) if size != old[a]]
    if len(grown) == 1 and not varying_axes(labels):
        flow.decline(node, labels, f"{describe(node)} repeats its only channel")
        return spread(flow.new(shape[grown[0]]), grown[0], shape)
    return labels.reshape(old).expand(shape)


def _size(flow: Flow, node: Node) -> Labels:
    """The size of an axis counts channels only if they are along it."""
    value, axis = node.all_input_nodes[0], arguments(node)["dim"]
    labels = flow.of(value)
    if axis % max(labels.dim(), 1) in varying_axes(labels):
        return pin_inputs(flow, node, f"{describe(node)} counts channels")
    return nothing(())


def _factory(flow: Flow, node: Node) -> Labels:
    """A tensor of one repeated value can have any channels that it meets."""
    shape = flow.shape(node)
    count = torch.Size(shape).numel()
    wide = [axis for axis, size in enumerate(shape) if size > 1]
    if not wide or count > LARGEST_FREE:
        return nothing(shape)
    return flow.new(count).reshape(shape)


def _roll(flow: Flow, node: Node) -> Labels:
    """Channels may be rolled along their own axis by a number that changes with them."""
    given = arguments(node)
    if not given["dims"]:
        return pin_inputs(flow, node, f"{describe(node)} rolls over all axes at once")
    return run(flow, node, flow.of)


_VIEWS = frozenset({aten.permute.default, aten.slice.Tensor, aten.select.int, aten.cat.default})


# --- heads ----------------------------------------------------------------------------------------


def _axis_in_products(flow: Flow, node: Node, labels: Labels, *, batch: bool) -> int | None:
    """The axis of heads (`batch`), or the one inside them, found by following where they go.

    Matrix products work on heads one after the other, as on the samples of a batch.
    """
    found = []
    for axis in varying_axes(labels):
        line = spread(torch.arange(labels.shape[axis]), axis, labels.shape)
        places = list(_places(flow, node, line))
        if places and all(place <= {batch} for place in places):
            found.append(axis)
    return found[-1] if found else None


def _places(flow: Flow, start: Node, probe: Labels) -> Iterator[set[bool]]:
    """For each product that a probe enters: whether it changes along axes that are a batch there.

    Only the first operators that do not just carry the probe on are looked at.
    """
    pending, seen = [(start, probe)], set()
    while pending:
        node, values = pending.pop()
        for user in node.users:
            if (batches := _batch_axes(flow, user, node)) is not None:
                yield {axis in batches for axis in varying_axes(compact(values))} or {True, False}
            elif user not in seen and (carried := _carry(flow, user, node, values)) is not None:
                seen.add(user)
                pending.append((user, carried))


def _batch_axes(flow: Flow, user: Node, node: Node) -> set[int] | None:
    """The axes of `node` that all parts of a product of two values have in common."""
    spec = spec_of(user)
    known = spec.batch_axes if spec is not None else None
    return None if known is None else known(flow, user, node)


def _carry(flow: Flow, user: Node, node: Node, values: Labels) -> Labels | None:
    """The probe in the result of an operator; None where it ends."""
    if not flow.is_tensor(user):
        return None
    shape = flow.shape(user)
    if user.target in _VIEWS:
        return run(flow, user, lambda n: values if n is node else _filler(flow, n, values))
    if user.target is aten.reshape.default:
        return compact(values.reshape(shape))
    if torch.Size(shape) == values.shape:  # an operator that works on each element
        return values
    return values.expand(shape) if user.target is aten.expand.default else None


def _filler(flow: Flow, node: Node, values: Labels) -> Labels:
    """What stands for the other pieces of a concatenation: more of the same."""
    shape = flow.shape(node)
    same = shape == tuple(values.shape)
    return values if same else nothing(shape)


# --- sizes among the arguments --------------------------------------------------------------------


def _shrink_reshape(removal: Removal, node: Node) -> None:
    shape, counts = info(node).shape, removal.counts(node)
    old = list(arguments(node)["shape"])
    if shape is None:
        return
    sizes: list[Any] = []
    for given, dim, count in zip(old, shape, counts, strict=True):
        fixed = isinstance(dim, int) and isinstance(given, int) and given != -1
        sizes.append(count if fixed else given)
    if sizes != old:
        set_arguments(node, shape=sizes)


def _shrink_size(removal: Removal, node: Node) -> None:
    """Expanded and constant tensors."""
    given, counts = list(arguments(node)["size"]), removal.counts(node)
    shape = info(node).shape or ()
    sizes = [
        count if isinstance(g, int) and g != -1 and not isinstance(d, BatchDim) else g
        for g, d, count in zip(given, shape, counts, strict=True)
    ]
    if sizes != given:
        set_arguments(node, size=sizes)


def _shrink_roll(removal: Removal, node: Node) -> None:
    """As many channels come to the front as are kept of those that did.

    An axis that is named several times is rolled once, by the sum.
    """
    given = arguments(node)
    stays = removal.kept(node.all_input_nodes[0])
    shifts: dict[int, int] = {}
    for shift, dim in zip(given["shifts"], given["dims"], strict=True):
        axis = dim % len(stays)
        shifts[axis] = shifts.get(axis, 0) + shift
    if all(bool(stays[axis].all()) for axis in shifts):
        return
    for axis, shift in shifts.items():
        line = stays[axis]
        if not bool(line.all()):
            shifts[axis] = int(line[len(line) - shift % len(line) :].sum())
    set_arguments(node, shifts=list(shifts.values()), dims=list(shifts))


_DROPOUT = Quantization(Role.MOVE, _refuse_dropout, move, leaves_values=True)


def moving(
    target: OpOverload,
    channels: Callable[[Flow, Node], Labels],
    shrink: Callable[[Removal, Node], None] | None = None,
) -> OpSpec:
    """An operator that moves values in the same way whatever they are."""
    return OpSpec(
        target, quantization=MOVE, exact=True, channels=channels, shrink=shrink, picks=True
    )


# --- sizes that tracing wrote down ----------------------------------------------------------------


def _reshape_keeps_size(node: Node, before: tuple[int, ...], now: tuple[int, ...]) -> bool:
    """Whether what is too much would go to the batch."""
    pairs = zip(arguments(node)["shape"], info(node).shape or (), strict=False)
    return any(given == -1 and isinstance(size, BatchDim) for given, size in pairs)


SPECS = (
    OpSpec(
        aten.reshape.default,
        quantization=MOVE,
        view=Reshape,
        exact=True,
        channels=_reshape,
        shrink=_shrink_reshape,
        picks=True,
        keeps_size=_reshape_keeps_size,
    ),
    OpSpec(
        aten.permute.default,
        quantization=MOVE,
        exact=True,
        channels=carry,
        through=Through.PERMUTED,
        picks=True,
    ),
    moving(aten.flip.default, carry),
    moving(aten.roll.default, _roll, _shrink_roll),
    moving(aten.pixel_shuffle.default, _pixel_shuffle),
    moving(aten.pixel_unshuffle.default, carry),
    moving(aten.channel_shuffle.default, _channel_shuffle, shrink_groups),
    OpSpec(
        aten.dropout.default,
        quantization=_DROPOUT,
        view=Dropout,
        exact=True,
        channels=first_input,
    ),
    moving(aten.expand.default, _expand, _shrink_size),
    moving(aten.repeat.default, carry),
    OpSpec(aten.tile.default, channels=carry),
    OpSpec(aten.repeat_interleave.self_int, channels=_repeat_each),
    OpSpec(aten.clone.default, exact=True),
    OpSpec(aten.sym_size.int, exact=True, channels=_size),
    *(
        OpSpec(t, channels=_factory, shrink=_shrink_size)
        for t in overloads("zeros ones full new_zeros new_ones new_full")
    ),
)

"""What layers and norms do to channel labels: they consume channels and produce others."""

from __future__ import annotations

from torch.fx import Node

from qpc.analysis.origins import computed
from qpc.calls import arguments
from qpc.channels.atoms import Labels, nothing, spread, varying_axes
from qpc.channels.flow import Flow, describe, pin_inputs
from qpc.layers import Weighted, weighted
from qpc.ops.linear import Linear


def layer(flow: Flow, node: Node) -> Labels:
    """A layer consumes channels on one weight axis and produces on the other."""
    view = weighted(node)
    assert view is not None
    if isinstance(view, Linear):
        return _linear(flow, node, view)
    if flow.parameter(view.weight) is None:
        return _computed_weight(flow, node, view.weight)
    shape = flow.shape(node)
    axis = len(shape) - len(flow.shape(view.weight)) + 1  # 1, or 0 without an axis for the batch
    incoming = flow.line(node, view.input, axis)
    groups = int(arguments(node)["groups"])
    if groups > 1:
        outgoing = _grouped(flow, view, incoming, groups, shape[axis] // groups)
    else:
        flow.consume(view.weight, 1 - view.output_axis, incoming)
        outgoing = flow.produce(view.weight, view.output_axis)
    flow.attach(node, view.bias, 0, outgoing)
    return spread(outgoing, axis, shape)


def _linear(flow: Flow, node: Node, view: Linear) -> Labels:
    """A linear layer mixes the last axis; channels on another axis pass."""
    outer, inner, rows = 0, 1, slice(None)
    if (found := flow.rows(view.weight)) is not None:
        weight, rows = found
        weight = view.weight if rows == slice(None) else weight  # with its grids, if it has any
    elif (transposed := flow.matrix(view.weight)) is not None:
        weight, (outer, inner) = transposed
    else:
        return _computed_weight(flow, node, view.weight)
    if (passing := passing_by(flow, view.input)) is not None:
        return apart(flow, node, weight, outer, passing)
    incoming = flow.line(node, view.input, -1)
    flow.consume(weight, inner, incoming)
    outgoing = flow.produce(weight, outer)[rows]
    flow.attach(node, view.bias, 0, outgoing)
    return spread(outgoing, -1, flow.shape(node))


def _computed_weight(flow: Flow, node: Node, weight: Node) -> Labels:
    """A layer without a weight of its own makes no channels, which is worth a word in itself."""
    flow.declined.setdefault(node, f"its weight {computed(weight)}")
    return pin_inputs(flow, node, f"{describe(node)} computes its weight")


def passing_by(flow: Flow, value: Node, axis: int = -1) -> tuple[int, Labels] | None:
    """The axis that carries channels if it is another one, and its channels."""
    labels = flow.of(value)
    axes = varying_axes(labels)
    if len(axes) != 1 or axes[0] == axis % labels.dim() or flow.is_imagined(labels):
        return None
    return axes[0], flow.line_of(value, labels, axes[0])


def apart(
    flow: Flow, node: Node, weight: Node, output_axis: int, passing: tuple[int, Labels]
) -> Labels:
    """Channels on another axis go through a matrix; those it makes have to stay."""
    reason = f"{describe(node)} leaves the channels to another axis"
    flow.atoms.pin(flow.produce(weight, output_axis), reason)
    axis, line = passing
    return spread(line, axis, flow.shape(node))


def _grouped(flow: Flow, view: Weighted, incoming: Labels, groups: int, outputs: int) -> Labels:
    """Keep the groups equal: whole groups go, or the same channels of every group.

    outputs: of each group. What leaves more units is chosen. Whole groups tie a group's inputs and
    outputs into one unit.
    """
    why = f"{describe(view.node)} has {groups} groups"
    per_group = incoming.reshape(groups, -1)
    whole = per_group.shape[1] == 1 or groups >= per_group.shape[1] + outputs
    atoms = flow.atoms
    atoms.unite(per_group, per_group[:, :1] if whole else per_group[:1], why)
    if view.output_axis == 1:  # transposed: weight[in, out/groups, ...]
        flow.consume(view.weight, 0, incoming)
        if whole:
            transposed = per_group[:, :1].expand(groups, outputs).reshape(-1)
        else:
            transposed = flow.produce(view.weight, 1).repeat(groups)
        flow.grids_follow(view.weight, transposed)
        return transposed
    outgoing = flow.produce(view.weight, 0).reshape(groups, -1)
    if whole:
        atoms.unite(outgoing, per_group[:, :1], why)
    else:
        atoms.unite(outgoing, outgoing[:1], why)
        flow.consume(view.weight, 1, per_group[0])
    return outgoing.reshape(-1)


def batch_norm(flow: Flow, node: Node) -> Labels:
    """Batch norm and instance norm have parameters and statistics for each channel."""
    given = arguments(node)
    line = flow.line(node, given["input"], 1)
    for name in ("weight", "bias", "running_mean", "running_var"):
        flow.attach(node, given[name], 0, line)
    return spread(line, 1, flow.shape(node))


def layer_norm(flow: Flow, node: Node) -> Labels:
    """Layer norm goes on over the channels kept."""
    given = arguments(node)
    labels, shape = flow.of(given["input"]), flow.shape(node)
    axes = varying_axes(labels)
    axis = axes[-1] if axes else len(shape) - 1
    line = flow.line(node, given["input"], axis)
    first = len(shape) - len(given["normalized_shape"])
    if axis >= first:
        for name in ("weight", "bias"):  # rms norm has no bias
            flow.attach(node, given.get(name), axis - first, line)
    return spread(line, axis, shape)


def group_norm(flow: Flow, node: Node) -> Labels:
    """Whole groups go, or the same channels of every group; whichever leaves more units."""
    given = arguments(node)
    line = flow.line(node, given["input"], 1)
    grouped = line.reshape(int(given["num_groups"]), -1)
    groups, size = grouped.shape
    if groups > 1 and size > 1:
        reference = grouped[:, :1] if groups >= size else grouped[:1]
        flow.atoms.unite(grouped, reference, f"{describe(node)} has equal groups")
    for part in (given["weight"], given["bias"]):
        flow.attach(node, part, 0, line)
    return spread(line, 1, flow.shape(node))


def embedding(flow: Flow, node: Node) -> Labels:
    """Rows are looked up by number, so that they stay; the features are channels."""
    weight = arguments(node)["weight"]
    if flow.parameter(weight) is None:
        return pin_inputs(flow, node)
    outgoing = flow.produce(weight, 1)
    flow.consume(weight, 0, nothing(flow.shape(weight)[:1]))
    return spread(outgoing, -1, flow.shape(node))


def prelu(flow: Flow, node: Node) -> Labels:
    """One slope for each channel, or one for all."""
    given = arguments(node)
    labels, weight = flow.of(given["self"]), given["weight"]
    if flow.shape(weight) != (1,):
        flow.attach(node, weight, 0, flow.line(node, given["self"], 1))
    return labels

"""What data movement does to channel labels: the operator itself, run on labels, says it.

Where a reshape splits channels over several axes, only whole slices along one of these axes can go.
That is the axis with the most of them, or the axis of heads where heads are to be pruned.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from qpc.calls import arguments, aten
from qpc.channels.atoms import (
    NONE,
    Labels,
    along,
    compact,
    distinct,
    nothing,
    only_along,
    spread,
    varying_axes,
)
from qpc.channels.flow import LARGEST_FREE, Flow, describe, pin_inputs
from qpc.meta import attribute
from qpc.ops.concat import Cat
from qpc.ops.padding import Pad


def move(flow: Flow, node: Node) -> Labels:
    """Run the operator on labels."""
    return one_axis(flow, node, _run(flow, node, flow.of))


def _run(flow: Flow, node: Node, labels: Any) -> Labels:
    values = {n: labels(n) if flow.is_tensor(n) else flow.size(n) for n in node.all_input_nodes}
    known: Any = values.__getitem__
    args, kwargs = map_arg(node.args, known), map_arg(node.kwargs, known)
    return compact(node.target(*args, **kwargs))  # type: ignore[operator]  # its target is an operator


def one_axis(flow: Flow, node: Node, labels: Labels) -> Labels:
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


def pixel_shuffle(flow: Flow, node: Node) -> Labels:
    """Each channel of the result is made of several, which go together."""
    labels = _run(flow, node, flow.of)
    flow.atoms.unite(labels, only_along(labels, -3), f"{describe(node)} mixes channels")
    return flow.atoms.find(labels)


def reshape(flow: Flow, node: Node) -> Labels:
    """The labels in another shape."""
    source = flow.of(node.all_input_nodes[0])
    return one_axis(flow, node, compact(source.reshape(flow.shape(node))))


def repeat_each(flow: Flow, node: Node) -> Labels:
    """Each channel several times; a number of results that is given would have to be known."""
    if arguments(node)["output_size"] is not None:
        return pin_inputs(flow, node, f"{describe(node)} is told the size of its result")
    return move(flow, node)


def channel_shuffle(flow: Flow, node: Node) -> Labels:
    """The groups that are shuffled stay equal."""
    given = arguments(node)
    line = flow.line(node, given["self"], 1)
    groups = line.reshape(int(given["groups"]), -1)
    most = groups[:, :1] if len(groups) > groups.shape[1] else groups[:1]
    flow.atoms.unite(groups, most, f"{describe(node)} needs equal groups")
    return spread(flow.atoms.find(groups).t().reshape(-1), 1, flow.shape(node))


def cat(flow: Flow, node: Node) -> Labels:
    """Pieces one after the other along the channels, or of equal channels along another axis."""
    view = Cat(node)
    pieces = [flow.of(t) for t in view.tensors]
    dim = view.dim % pieces[0].dim()
    axis = _axis_of_pieces(flow, pieces, dim)
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


def _axis_of_pieces(flow: Flow, pieces: list[Labels], dim: int) -> int | None:
    """The axis of the channels: `dim` if a piece surely has them there."""
    single = [(varying_axes(p)[0], p) for p in pieces if len(varying_axes(p)) == 1]
    sure = [axis for axis, p in single if not flow.is_imagined(p)]
    if candidates := sure or [axis for axis, _ in single]:
        return dim if dim in candidates else candidates[0]
    waits = any(len(varying_axes(p)) > 1 for p in pieces)
    return None if waits else dim


def expand(flow: Flow, node: Node) -> Labels:
    """Repeated elements are channels of their own where the original has none."""
    labels, shape = flow.of(node.all_input_nodes[0]), flow.shape(node)
    old = (1,) * (len(shape) - labels.dim()) + tuple(labels.shape)
    grown = [a for a, size in enumerate(shape) if size != old[a]]
    if len(grown) == 1 and not varying_axes(labels):
        flow.decline(node, labels, f"{describe(node)} repeats its only channel")
        return spread(flow.imagine(shape[grown[0]]), grown[0], shape)
    return labels.reshape(old).expand(shape)


def factory(flow: Flow, node: Node) -> Labels:
    """A tensor of one repeated value can have any channels that it meets."""
    shape = flow.shape(node)
    count = torch.Size(shape).numel()
    wide = [axis for axis, size in enumerate(shape) if size > 1]
    if not wide or count > LARGEST_FREE:
        return nothing(shape)
    return flow.new(count).reshape(shape)


def pad(flow: Flow, node: Node) -> Labels:
    """Padding along channels makes channels that hold a constant; they may go like any other."""
    view = Pad(node)
    labels, shape = flow.of(view.input), flow.shape(node)
    amounts = pad_amounts(view.pad, len(shape))
    axes = varying_axes(labels)
    if not axes:
        return nothing(shape)
    axis = axes[-1]
    line = flow.line(node, view.input, axis)
    before, after = amounts.get(axis, (0, 0))
    line = line[max(0, -before) : len(line) - max(0, -after)]
    made = [flow.new(max(0, before)), line, flow.new(max(0, after))]
    return spread(torch.cat(made), axis, shape)


def pad_amounts(pad: tuple[int, ...], rank: int) -> dict[int, tuple[int, int]]:
    """What is added before and after, by axis."""
    return {rank - 1 - i // 2: (pad[i], pad[i + 1]) for i in range(0, len(pad), 2)}


def slice_(flow: Flow, node: Node) -> Labels:
    """With steps, what is picked and what follows it up to the next pick go together."""
    given = arguments(node)
    _tie_steps(flow, node, given["self"])
    return _run(flow, node, flow.of)


def slice_scatter(flow: Flow, node: Node) -> Labels:
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


def select(flow: Flow, node: Node) -> Labels:
    """One index of an axis; a channel picked alone has to stay."""
    return _run(flow, node, flow.of)


def roll(flow: Flow, node: Node) -> Labels:
    """Channels may be rolled along their own axis by a number that changes with them."""
    given = arguments(node)
    if not given["dims"]:
        return pin_inputs(flow, node, f"{describe(node)} rolls over all axes at once")
    return _run(flow, node, flow.of)


def index(flow: Flow, node: Node) -> Labels:
    """Away from the channel axis by any indices; along it by a list of constants."""
    given = arguments(node)
    if node.target is aten.index_select.default:
        rank = len(flow.shape(given["self"]))
        indices: list[Node | None] = [None] * rank
        indices[given["dim"] % rank] = given["index"]
    else:
        indices = list(given["indices"])
    source = given["self"]
    indexed = [a for a, i in enumerate(indices) if i is not None]
    labels = _rows_together(flow, node, source, indexed)
    picks: list[Any] = []
    for axis, chosen in enumerate(indices):
        along_channels = axis in varying_axes(labels)
        if chosen is None:
            picks.append(slice(None))
        elif not along_channels and flow.may_be_bool(chosen):
            return pin_inputs(flow, node, f"{describe(node)} picks by a mask")
        elif not along_channels:
            picks.append(torch.zeros(flow.shape(chosen), dtype=torch.int64))
        elif len(indexed) == 1 and (known := constant_index(flow.gm, chosen)) is not None:
            picks.append(known)
        else:
            return pin_inputs(flow, node, f"{describe(node)} picks channels by computed indices")
    return compact(labels[tuple(picks)])


def _rows_together(flow: Flow, node: Node, source: Node, indexed: list[int]) -> Labels:
    """Rows of a table, such as relative position biases, stay; its channels may go."""
    labels = flow.of(source)
    if len(varying_axes(labels)) > 1:
        first = labels
        for axis in indexed:
            first = first.narrow(axis, 0, 1)
        flow.atoms.unite(labels, first, "")
        labels = flow.of(source)
    return labels


def constant_index(gm: GraphModule, node: Node) -> Tensor | None:
    """A list of channel numbers that is a buffer."""
    if node.op != "get_attr":
        return None
    value = attribute(gm, str(node.target))
    return value if value.dim() == 1 and value.dtype in (torch.int32, torch.int64) else None


# --- heads ----------------------------------------------------------------------------------------

_PRODUCTS = frozenset(
    {aten.scaled_dot_product_attention.default, aten.matmul.default, aten.bmm.default}
)
_VIEWS = frozenset({aten.permute.default, aten.slice.Tensor, aten.select.int, aten.cat.default})


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
    if user.target in _PRODUCTS:
        return set(range(len(flow.shape(node)) - 2))
    if user.target is not aten.einsum.default:
        return None
    left, _, out = arguments(user)["equation"].replace(" ", "").partition("->")
    operands = left.split(",")
    letters = operands[user.all_input_nodes.index(node)]
    return {i for i, x in enumerate(letters) if x in out and all(x in o for o in operands)}


def _carry(flow: Flow, user: Node, node: Node, values: Labels) -> Labels | None:
    """The probe in the result of an operator; None where it ends."""
    if not flow.is_tensor(user):
        return None
    shape = flow.shape(user)
    if user.target in _VIEWS:
        if user.target is aten.cat.default and all(s is not node for s in _pieces(user)):
            return None
        return _run(flow, user, lambda n: values if n is node else _filler(flow, n, values))
    if user.target is aten.reshape.default:
        return compact(values.reshape(shape))
    if torch.Size(shape) == values.shape:  # an operator that works on each element
        return values
    return values.expand(shape) if user.target is aten.expand.default else None


def _pieces(cat: Node) -> list[Node]:
    return list(arguments(cat)["tensors"])


def _filler(flow: Flow, node: Node, values: Labels) -> Labels:
    """What stands for the other pieces of a concatenation: more of the same."""
    shape = flow.shape(node)
    same = shape == tuple(values.shape)
    return values if same else nothing(shape)

"""What operators do to channel labels.

A rule gets the flow and a call and returns the labels of the call's value. Operators without a rule
pin the channels of their inputs, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch._ops import OpOverload
from torch.fx import Node
from torch.fx.node import map_arg

from qpc.analysis.atoms import (
    NONE,
    Labels,
    along,
    collapse,
    compact,
    nothing,
    spread,
    varying_axes,
)
from qpc.analysis.channels import Flow, describe_node
from qpc.ops import views
from qpc.ops.views import arguments, aten

Rule = Callable[[Flow, Node], Labels]


def pin_inputs(flow: Flow, node: Node, why: str | None = None) -> Labels:
    """Pin the channels of every input; the value itself carries none."""
    reason = why or f"{describe_node(node)} is not understood"
    touched = False
    for source in node.all_input_nodes:
        if source.op == "get_attr":
            flow.pin_parameter(source, reason)
        elif flow.is_tensor(source):
            labels = flow.of(source)
            touched |= bool((collapse(labels)[0] != NONE).any())
            flow.atoms.pin(labels, reason)
    if touched:
        flow.declined[node] = reason
    return nothing(flow.shape(node))


# --- layers ---------------------------------------------------------------------------------------


def _layer(flow: Flow, node: Node) -> Labels:
    """A layer consumes channels on one weight axis and produces on the other."""
    view = next(v for kind in _WEIGHTED if (v := kind.of(node)))
    axis = -1 if isinstance(view, views.Linear) else 1
    if view.weight.op != "get_attr":
        return pin_inputs(flow, node, f"{describe_node(node)} computes its weight")
    source = flow.of(view.input)
    groups = int(arguments(node).get("groups", 1))
    incoming = along(source, axis)
    if [a for a in varying_axes(source) if a != axis % source.dim()]:
        flow.atoms.pin(source, f"channels that enter {describe_node(node)} are on several axes")
        incoming = nothing(incoming.shape)
    produced = flow.produce(view.weight, view.output_axis)
    if groups > 1:
        outgoing = _grouped(flow, view, incoming, groups)
    else:
        flow.consume(view.weight, 1 - view.output_axis, incoming, _shared(view.weight))
        outgoing = produced
    if view.bias is not None:
        if view.bias.op == "get_attr":
            flow.consume(view.bias, 0, outgoing, _shared(view.bias))
        else:
            flow.atoms.unite(
                outgoing, flow.of(view.bias), f"{describe_node(node)} computes its bias"
            )
    return spread(outgoing, axis, flow.shape(node))


def _grouped(flow: Flow, view: views.Weighted, incoming: Labels, groups: int) -> Labels:
    """Keep the groups equal: whole groups go, or the same channel of every group."""
    why = f"{describe_node(view.node)} has {groups} groups"
    if view.output_axis == 0:
        outgoing = flow.produce(view.weight, 0)
        per_group_in, per_group_out = incoming.reshape(groups, -1), outgoing.reshape(groups, -1)
        if per_group_in.shape[1] == 1:
            flow.atoms.unite(per_group_in, per_group_out, why)
            return outgoing
        flow.atoms.unite(per_group_in, per_group_in[:1], why)
        flow.atoms.unite(per_group_out, per_group_out[:1], why)
        flow.consume(view.weight, 1, per_group_in[0], _shared(view.weight))
        return outgoing
    # transposed: weight[in, out/groups, ...]; axis 1 holds the outputs of one group
    line = flow.produce(view.weight, 1)
    per_group_in = incoming.reshape(groups, -1)
    flow.consume(view.weight, 0, incoming, _shared(view.weight))
    if line.numel() == 1:
        # one output for each group: it goes with the group, so the inputs of a group go together
        flow.atoms.pin(line, why)
        flow.atoms.unite(per_group_in, per_group_in[:, :1], why)
        return per_group_in[:, 0].contiguous()
    flow.atoms.unite(per_group_in, per_group_in[:1], why)
    return line.repeat(groups)


def _shared(parameter: Node) -> str:
    return f"{parameter.target!r} is shared with a place that keeps all channels"


def _batch_norm(flow: Flow, node: Node) -> Labels:
    norm = views.BatchNorm(node)
    source = flow.of(norm.input)
    if [a for a in varying_axes(source) if a != 1]:
        return pin_inputs(flow, node, f"channels of {describe_node(node)} are on several axes")
    line = along(source, 1)
    for part in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        if part is not None:
            flow.consume(part, 0, line, _shared(part))
    return source


def _layer_norm(flow: Flow, node: Node) -> Labels:
    given = arguments(node)
    source = flow.of(given["input"])
    shape = flow.shape(node)
    for part in (given["weight"], given["bias"]):
        if part is None:
            continue
        first = len(shape) - len(flow.shape(part))
        if [a for a in varying_axes(source) if a >= first and a != len(shape) - 1]:
            return pin_inputs(flow, node, f"{describe_node(node)} normalises over several axes")
        inner = along(source, -1)
        flow.consume(part, len(flow.shape(part)) - 1, inner, _shared(part))
    return source


def _group_norm(flow: Flow, node: Node) -> Labels:
    given = arguments(node)
    source = flow.of(given["input"])
    if [a for a in varying_axes(source) if a != 1]:
        return pin_inputs(flow, node, f"channels of {describe_node(node)} are on several axes")
    line = along(source, 1)
    grouped = line.reshape(int(given["num_groups"]), -1)
    if grouped.shape[1] > 1:
        flow.atoms.unite(grouped, grouped[:1], f"{describe_node(node)} has equal groups")
    for part in (given["weight"], given["bias"]):
        if part is not None:
            flow.consume(part, 0, line, _shared(part))
    return source


def _instance_norm(flow: Flow, node: Node) -> Labels:
    given = arguments(node)
    source = flow.of(given["input"])
    line = along(source, 1)
    for name in ("weight", "bias", "running_mean", "running_var"):
        if given[name] is not None:
            flow.consume(given[name], 0, line, _shared(given[name]))
    return source


def _embedding(flow: Flow, node: Node) -> Labels:
    weight = arguments(node)["weight"]
    if weight.op != "get_attr":
        return pin_inputs(flow, node)
    return spread(flow.produce(weight, 1), -1, flow.shape(node))


# --- values of equal shape ------------------------------------------------------------------------


def _elementwise(flow: Flow, node: Node) -> Labels:
    """Channels at equal places go together; a lone channel that is broadcast must stay."""
    shape = torch.Size(flow.shape(node))
    result: Labels | None = None
    for source in node.all_input_nodes:
        if not flow.is_tensor(source) or not flow.shape(source):
            continue
        labels = _broadcast(flow, node, flow.of(source), shape)
        if labels is None:
            continue
        if result is None:
            result = labels
        else:
            flow.atoms.unite(
                result, labels, f"{describe_node(node)} meets a tensor whose size is fixed"
            )
    return nothing(shape) if result is None else flow.atoms.find(result)


def _broadcast(flow: Flow, node: Node, labels: Labels, shape: torch.Size) -> Labels | None:
    """An operand's labels in the result's shape; None if it does not say anything about channels.

    An operand of length 1 along the axes that carry channels elsewhere takes part in all of them.
    """
    padded = labels.reshape((1,) * (len(shape) - labels.dim()) + tuple(labels.shape))
    stretched = [a for a, size in enumerate(shape) if size != 1 and padded.shape[a] == 1]
    if not stretched:
        return padded
    if not varying_axes(compact(padded)):
        flow.atoms.pin(padded, f"its only channel is broadcast by {describe_node(node)}")
        return None if bool((collapse(padded)[0] == NONE).all()) or stretched else padded
    return padded.expand(shape)


# --- data movement: the operator itself, run on labels --------------------------------------------


def _move(flow: Flow, node: Node) -> Labels:
    """Run the operator on the labels; then see whether channels are still slices along one axis."""
    values = {n: flow.of(n) for n in node.all_input_nodes if flow.is_tensor(n)}
    sizes = {n: flow._types[n] for n in node.all_input_nodes if not flow.is_tensor(n)}
    given: dict[Node, Any] = {**values, **sizes}
    args = map_arg(node.args, lambda n: given[n])
    kwargs = map_arg(node.kwargs, lambda n: given[n])
    moved = node.target(*args, **kwargs)  # type: ignore[operator]
    return _one_axis(flow, node, compact(moved))


def _one_axis(flow: Flow, node: Node, labels: Labels) -> Labels:
    """Tie channels that are spread over several axes so that slices along one of them can go."""
    axes = varying_axes(labels)
    if len(axes) < 2:
        return labels
    chosen = axes[-2] if flow.prunes_heads(node) else axes[-1]
    core, shape = collapse(labels)
    first = core
    for axis in axes:
        if axis != chosen:
            first = first.narrow(axis, 0, 1)
    flow.atoms.unite(core, first, f"{describe_node(node)} mixes channels with a fixed size")
    return flow.atoms.find(core.expand(shape))


def _reshape(flow: Flow, node: Node) -> Labels:
    source = flow.of(views.Reshape(node).input)
    return _one_axis(flow, node, compact(source.reshape(flow.shape(node))))


def _cat(flow: Flow, node: Node) -> Labels:
    view = views.Cat(node)
    pieces = [flow.of(t) for t in view.tensors]
    axis = view.dim % pieces[0].dim()
    across = {a for p in pieces for a in varying_axes(p)} - {axis}
    if across:
        if len(across) > 1 or any(axis in varying_axes(p) for p in pieces):
            return pin_inputs(flow, node, f"channels of {describe_node(node)} are on several axes")
        (other,) = across
        first = along(pieces[0], other)
        for piece in pieces[1:]:
            flow.atoms.unite(first, along(piece, other), f"{describe_node(node)} needs equal sizes")
        return spread(flow.atoms.find(first), other, flow.shape(node))
    return spread(torch.cat([along(p, axis) for p in pieces]), axis, flow.shape(node))


def _expand(flow: Flow, node: Node) -> Labels:
    """Repeated elements are channels of their own where the original has none."""
    source = node.all_input_nodes[0]
    labels, shape = flow.of(source), flow.shape(node)
    old = (1,) * (len(shape) - labels.dim()) + tuple(labels.shape)
    grown = [a for a, size in enumerate(shape) if size != old[a]]
    if len(grown) == 1 and bool((collapse(labels)[0] == NONE).all()):
        return spread(flow.new(shape[grown[0]]), grown[0], shape)
    return labels.reshape(old).expand(shape)


def _pad(flow: Flow, node: Node) -> Labels:
    """Padding along channels makes channels that hold a constant; they may go like any other."""
    view = views.Pad(node)
    labels, rank = flow.of(view.input), len(flow.shape(node))
    amounts = {rank - 1 - i // 2: view.pad[i : i + 2] for i in range(0, len(view.pad), 2)}
    for axis in varying_axes(labels):
        before, after = amounts.get(axis, (0, 0))
        if before < 0 or after < 0:
            return pin_inputs(flow, node, f"{describe_node(node)} crops channels")
        line = [flow.new(before), along(labels, axis), flow.new(after)]
        return spread(torch.cat(line), axis, flow.shape(node))
    return nothing(flow.shape(node))


def _slice_scatter(flow: Flow, node: Node) -> Labels:
    """A slice replaced by other values: both have the same channels there."""
    given = arguments(node)
    labels, source = flow.of(given["self"]), flow.of(given["src"])
    bounds = (given["dim"], given["start"], given["end"], given["step"])
    replaced = aten.slice.Tensor(labels, *bounds)
    flow.atoms.unite(replaced, source, f"{describe_node(node)} meets a tensor whose size is fixed")
    return flow.atoms.find(labels)


def _select_fixed(flow: Flow, node: Node) -> Labels:
    """Flip, roll, index: channels may be moved as a whole, not along their own axis."""
    source = node.all_input_nodes[0]
    axes = varying_axes(flow.of(source))
    given = arguments(node)
    dims = {d % len(flow.shape(source)) for d in given.get("dims", given.get("dim", ()))}
    if not dims or dims & set(axes):
        return pin_inputs(flow, node, f"{describe_node(node)} moves channels along their axis")
    return _move(flow, node)


def _index(flow: Flow, node: Node) -> Labels:
    """Indexing by constants, away from the channel axis."""
    given = arguments(node)
    source, indices = given["self"], given["indices"]
    labels = flow.of(source)
    indexed = [a for a, i in enumerate(indices) if i is not None]
    constant = all(i is None or i.op == "get_attr" for i in indices)
    if (
        source.op == "get_attr"
    ):  # a table, such as relative position biases: rows stay, channels may go
        labels = _rows_together(flow, source, indexed)
    if not constant or set(indexed) & set(varying_axes(labels)):
        return pin_inputs(flow, node, f"{describe_node(node)} picks channels by index")
    picks = [None if i is None else _constant(flow, i) for i in indices]
    return compact(labels[tuple(slice(None) if p is None else p for p in picks)])


def _rows_together(flow: Flow, source: Node, axes: Sequence[int]) -> Labels:
    """Unite the atoms of a free parameter along the axes that an index runs over."""
    labels = flow.of(source)
    first = labels
    for axis in axes:
        first = first.narrow(axis, 0, 1)
    flow.atoms.unite(labels, first, "")
    settled = compact(flow.of(source))
    flow.put(source, settled)
    return settled


def _constant(flow: Flow, node: Node) -> torch.Tensor:
    from qpc.meta import attribute

    return attribute(flow.gm, str(node.target))


# --- reductions, windows and contractions ---------------------------------------------------------


def _reduce(flow: Flow, node: Node) -> Labels:
    """Sums and means over channels see fewer of them; over other axes they keep channels."""
    given = arguments(node)
    source = flow.of(node.all_input_nodes[0])
    dims = given.get("dim")
    rank = source.dim()
    reduced = {d % rank for d in ([dims] if isinstance(dims, int) else dims or range(rank))}
    for axis in reduced:
        vary = axis in varying_axes(source)
        first = source.narrow(axis, 0, 1)
        source = torch.full_like(first, NONE) if vary else first
    if not given.get("keepdim", False):
        for axis in sorted(reduced, reverse=True):
            source = source.squeeze(axis)
    return source


def _window(flow: Flow, node: Node) -> Labels:
    """Pooling and resizing work on the last axes and leave channels alone."""
    source, shape = flow.of(node.all_input_nodes[0]), flow.shape(node)
    if [a for a in varying_axes(source) if a != 1]:
        return pin_inputs(flow, node, f"{describe_node(node)} mixes channels")
    return spread(along(source, 1), 1, shape)


def _softmax(flow: Flow, node: Node) -> Labels:
    return flow.of(node.all_input_nodes[0])


def _matmul(flow: Flow, node: Node) -> Labels:
    a, b = node.all_input_nodes[0], node.all_input_nodes[-1]
    batch = "".join(
        chr(ord("A") + i) for i in range(max(len(flow.shape(a)), len(flow.shape(b))) - 2)
    )
    if min(len(flow.shape(a)), len(flow.shape(b))) < 2:
        return pin_inputs(flow, node)
    left = batch[len(batch) - (len(flow.shape(a)) - 2) :] + "ik"
    right = batch[len(batch) - (len(flow.shape(b)) - 2) :] + "kj"
    return _contract(flow, node, [(a, left), (b, right)], batch + "ij")


def _einsum(flow: Flow, node: Node) -> Labels:
    given = arguments(node)
    equation = given["equation"].replace(" ", "")
    tensors = given["tensors"]
    if "..." in equation or "->" not in equation or len(tensors) != 2:
        return pin_inputs(flow, node)
    operands, _, out = equation.partition("->")
    return _contract(flow, node, list(zip(tensors, operands.split(","), strict=True)), out)


def _attention(flow: Flow, node: Node) -> Labels:
    """softmax(q k^T) v, as two contractions."""
    given = arguments(node)
    q, k, v = given["query"], given["key"], given["value"]
    batch = "".join(chr(ord("A") + i) for i in range(len(flow.shape(q)) - 2))
    scores = (*flow.shape(q)[:-1], flow.shape(k)[-2])
    middle = _contract(flow, node, [(q, batch + "id"), (k, batch + "jd")], batch + "ij", scores)
    pairs: list[tuple[Node | Labels, str]] = [(middle, batch + "ij"), (v, batch + "je")]
    return _contract(flow, node, pairs, batch + "ie")


def _contract(
    flow: Flow,
    node: Node,
    operands: Sequence[tuple[Node | Labels, str]],
    out: str,
    shape: tuple[int, ...] | None = None,
) -> Labels:
    """A sum of products in Einstein's notation; channels along a summed letter are tied."""
    shape = flow.shape(node) if shape is None else shape
    lines: list[tuple[str, Labels]] = []
    for operand, letters in operands:
        labels = flow.of(operand) if isinstance(operand, Node) else operand
        axes = varying_axes(labels)
        if len(axes) > 1:
            return pin_inputs(flow, node, f"channels of {describe_node(node)} are on several axes")
        lines += [(letters[axis], along(labels, axis)) for axis in axes]
    for letter, line in lines:
        for operand, letters in operands:
            if letter in letters:
                other = flow.of(operand) if isinstance(operand, Node) else operand
                theirs = along(other, letters.index(letter))
                why = f"{describe_node(node)} meets a tensor whose size is fixed"
                if theirs.shape[0] == line.shape[0]:
                    flow.atoms.unite(line, theirs, why)
                else:
                    flow.atoms.pin(line, why)
    kept = {letter: line for letter, line in lines if letter in out}
    if not kept:
        return nothing(shape)
    letter, line = next(iter(kept.items()))
    for other_letter, other in kept.items():
        if other_letter != letter:
            flow.atoms.pin(other, f"{describe_node(node)} makes every pair of two sets of channels")
    return spread(flow.atoms.find(line), out.index(letter), shape)


# --- the table ------------------------------------------------------------------------------------

_WEIGHTED: tuple[type[views.Weighted], ...] = (
    views.Conv1d,
    views.Conv2d,
    views.Conv3d,
    views.ConvTranspose1d,
    views.ConvTranspose2d,
    views.Linear,
)


def _overloads(names: str) -> list[OpOverload]:
    found = []
    for name in names.split():
        packet, _, overload = name.partition(".")
        operator: Any = getattr(getattr(aten, packet), overload or "default")
        found.append(operator)
    return found


def _table() -> dict[object, Rule]:
    groups: list[tuple[Rule, str]] = [
        (
            _layer,
            "conv1d conv2d conv3d conv_transpose1d conv_transpose2d.input linear",
        ),
        (_batch_norm, "batch_norm"),
        (_layer_norm, "layer_norm"),
        (_group_norm, "group_norm"),
        (_instance_norm, "instance_norm"),
        (_embedding, "embedding"),
        (
            _elementwise,
            "add.Tensor sub.Tensor mul.Tensor div.Tensor maximum minimum pow.Tensor_Scalar relu "
            "clamp sigmoid tanh silu hardswish hardsigmoid gelu leaky_relu elu softplus mish exp "
            "log sqrt rsqrt abs neg celu selu dropout prelu where.self erf sin cos reciprocal "
            "square log_sigmoid masked_fill.Scalar eq.Scalar ne.Scalar gt.Scalar lt.Scalar "
            "ge.Scalar le.Scalar to.dtype logical_not zero fill.Tensor fill.Scalar zeros_like "
            "full_like hardtanh threshold log1p expm1",
        ),
        (_move, "permute slice.Tensor select.int pixel_shuffle pixel_unshuffle channel_shuffle"),
        (_reshape, "reshape"),
        (_cat, "cat"),
        (_expand, "expand"),
        (_pad, "constant_pad_nd"),
        (_slice_scatter, "slice_scatter"),
        (_select_fixed, "roll flip"),
        (_index, "index.Tensor"),
        (
            _reduce,
            "mean.dim sum.dim_IntList amax amin linalg_vector_norm var.correction std.correction "
            "logsumexp norm.ScalarOpt_dim",
        ),
        (
            _window,
            "max_pool2d avg_pool2d adaptive_avg_pool2d upsample_nearest2d.vec "
            "upsample_bilinear2d.vec avg_pool1d max_pool1d avg_pool3d max_pool3d "
            "adaptive_avg_pool1d "
            "reflection_pad2d replication_pad2d upsample_nearest2d upsample_bilinear2d",
        ),
        (_softmax, "softmax.int log_softmax.int _softmax _log_softmax"),
        (_matmul, "matmul bmm"),
        (_einsum, "einsum"),
        (_attention, "scaled_dot_product_attention"),
    ]
    return {target: rule for rule, names in groups for target in _overloads(names)}


RULES: dict[object, Rule] = _table()
"""The rule of each operator; packages may add their own."""

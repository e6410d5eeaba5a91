"""Take channels out of a graph: slice tensors by their labels and bring every size up to date."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from qpc.calls import arguments, aten, qpc_ops, set_arguments
from qpc.channels.atoms import Labels, collapse
from qpc.channels.flow import describe
from qpc.channels.groups import ChannelAnalysis
from qpc.channels.moves import constant_index, pad_amounts
from qpc.companions import elementwise_companions
from qpc.edit import Editor
from qpc.errors import InvariantError
from qpc.meta import attribute, info, update_info
from qpc.ops.padding import Pad
from qpc.shapes import infer_shapes
from qpc.types import BatchDim


class Removal:
    """One removal of a set of units from one graph."""

    def __init__(self, gm: GraphModule, analysis: ChannelAnalysis, units: frozenset[int]) -> None:
        self.gm, self.analysis = gm, analysis
        self._gone = analysis.marks(units)
        self._kept: dict[Node, list[Tensor]] = {}

    def run(self) -> None:
        """Slice parameters, update arguments, and infer all shapes anew."""
        for node in self.gm.graph.nodes:
            if node in self.analysis.values or _slices_a_parameter(node):
                _UPDATES.get(node.target, _leave)(self, node)
        self._slice_tensors()
        for node in self.gm.graph.nodes:
            if node.op == "get_attr":
                tensor = attribute(self.gm, str(node.target))
                update_info(node, shape=tuple(tensor.shape), dtype=tensor.dtype)
        infer_shapes(self.gm)

    def goes(self, labels: Labels) -> Tensor:
        """Where labels are of removed units: bool, of the shape of `labels`."""
        core, shape = collapse(labels)
        return self._gone[core].expand(shape)  # NONE is -1, the last of the marks

    def kept(self, node: Node) -> list[Tensor]:
        """For each axis of a value which indices stay: bool[size]."""
        if node.op == "get_attr" and node not in self._kept:
            self._kept[node] = self._kept_of_parameter(node)
        if node not in self._kept:
            gone = self.goes(self.analysis.values[node])
            self._kept[node] = [~_whole_slices(gone, axis) for axis in range(gone.dim())]
            rest = gone
            for axis, stays in enumerate(self._kept[node]):
                if not bool(stays.all()):
                    rest = rest.index_select(axis, stays.nonzero().flatten())
            if bool(collapse(rest)[0].any()):
                raise InvariantError(
                    f"the channels to remove are no whole slices of {describe(node)}",
                    node=node,
                )
        return self._kept[node]

    def _kept_of_parameter(self, node: Node) -> list[Tensor]:
        tensor = attribute(self.gm, str(node.target))
        kept = [torch.ones(size, dtype=torch.bool) for size in tensor.shape]
        for axis in self.analysis.axes:
            if attribute(self.gm, axis.name) is tensor:
                kept[axis.axis] = ~self.goes(axis.labels)
        return kept

    def counts(self, node: Node) -> list[int]:
        """The sizes of a value at batch size 1 after removal."""
        return [int(stays.sum()) for stays in self.kept(node)]

    def _slice_tensors(self) -> None:
        editor = Editor(self.gm, "")
        sliced: dict[str, Tensor] = {}
        tied = _tied_names(self.gm)
        for axis in self.analysis.axes:
            stays = ~self.goes(axis.labels)
            if bool(stays.all()):
                continue
            aliases = tied.get(id(attribute(self.gm, axis.name)), [axis.name])
            followers = [c for alias in aliases for c in elementwise_companions(self.gm, alias)]
            for name in (axis.name, *followers):
                tensor = sliced.get(name, attribute(self.gm, name)).detach()
                sliced[name] = tensor.index_select(axis.axis, stays.nonzero().flatten())
        for name, value in sliced.items():
            old = attribute(self.gm, name)
            fresh: Tensor = value
            if isinstance(old, nn.Parameter):
                fresh = nn.Parameter(value, requires_grad=old.requires_grad)
            for alias in tied.get(id(old), [name]):
                editor.set_tensor(alias, fresh)


def _slices_a_parameter(node: Node) -> bool:
    return node.target is aten.slice.Tensor and node.all_input_nodes[0].op == "get_attr"


def _tied_names(gm: GraphModule) -> dict[int, list[str]]:
    names: dict[int, list[str]] = {}
    for kind in (gm.named_parameters, gm.named_buffers):
        for name, tensor in kind(remove_duplicate=False):
            names.setdefault(id(tensor), []).append(name)
    return names


def _whole_slices(gone: Tensor, axis: int) -> Tensor:
    """Which indices of an axis are gone altogether: bool[size]."""
    core, shape = collapse(gone)
    others = [a for a in range(core.dim()) if a != axis]
    line = core.all(dim=tuple(others)) if others and core.dim() > 1 else core.flatten()
    return line.expand(shape[axis])


# --- arguments that depend on sizes ---------------------------------------------------------------


def _leave(removal: Removal, node: Node) -> None:
    """Most operators take their sizes from their inputs."""


def _reshape(removal: Removal, node: Node) -> None:
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


def _size(removal: Removal, node: Node) -> None:
    """Expanded and constant tensors."""
    given, counts = list(arguments(node)["size"]), removal.counts(node)
    shape = info(node).shape or ()
    sizes = [
        count if isinstance(g, int) and g != -1 and not isinstance(d, BatchDim) else g
        for g, d, count in zip(given, shape, counts, strict=True)
    ]
    if sizes != given:
        set_arguments(node, size=sizes)


def _slice(removal: Removal, node: Node) -> None:
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


def _select(removal: Removal, node: Node) -> None:
    given = arguments(node)
    stays = removal.kept(given["self"])
    axis = int(given["dim"]) % len(stays)
    index = int(given["index"]) % len(stays[axis])
    if not bool(stays[axis].all()):
        set_arguments(node, index=int(stays[axis][:index].sum()))


def _groups(removal: Removal, node: Node) -> None:
    """Where whole groups go, fewer are left."""
    given = arguments(node)
    name = "num_groups" if "num_groups" in given else "groups"
    source, groups = node.all_input_nodes[0], int(given[name])
    left = int(removal.kept(source)[1].reshape(groups, -1).any(dim=1).sum())
    if left == groups:
        return
    set_arguments(node, **{name: left})
    for weight in node.all_input_nodes[1:]:
        if weight.target is qpc_ops.fake_quantize.default and arguments(weight)["groups"] > 1:
            set_arguments(weight, groups=left)


def _layer_norm(removal: Removal, node: Node) -> None:
    length = len(arguments(node)["normalized_shape"])
    set_arguments(node, normalized_shape=removal.counts(node)[-length:])


def _attention(removal: Removal, node: Node) -> None:
    """The default scale is that of the full head; it stays."""
    given = arguments(node)
    full = removal.analysis.values[given["query"]].shape[-1]
    if given["scale"] is None and removal.counts(given["query"])[-1] != full:
        set_arguments(node, scale=1.0 / math.sqrt(full))


def _pad(removal: Removal, node: Node) -> None:
    """What is added or cropped along channels counts those kept."""
    view = Pad(node)
    source, padded = removal.kept(view.input), removal.kept(node)
    amounts = list(view.pad)
    for axis, (before, after) in pad_amounts(view.pad, len(padded)).items():
        old, new = source[axis], padded[axis]
        first = new[:before] if before >= 0 else old[:-before]
        last = new[len(new) - after :] if after >= 0 else old[len(old) + after :]
        counts = [int(first.sum()), int(last.sum())]
        place = 2 * (len(padded) - 1 - axis)
        signs = [1 if amount >= 0 else -1 for amount in (before, after)]
        amounts[place : place + 2] = [c * s for c, s in zip(counts, signs, strict=True)]
    if tuple(amounts) != view.pad:
        set_arguments(node, pad=amounts)


def _roll(removal: Removal, node: Node) -> None:
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


def _index(removal: Removal, node: Node) -> None:
    """Lists of channel numbers lose those that are gone, and count the others anew."""
    given = arguments(node)
    stays = removal.kept(given["self"])
    if node.target is aten.index_select.default:
        chosen = {given["dim"] % len(stays): given["index"]}
    else:
        chosen = {a: i for a, i in enumerate(given["indices"]) if i is not None}
    for axis, index in chosen.items():
        if bool(stays[axis].all()):
            continue
        old = constant_index(removal.gm, index)
        assert old is not None, "channels are picked by constants only"
        places = old % len(stays[axis])
        renumbered = (torch.cumsum(stays[axis], 0) - 1)[places[stays[axis][places]]]
        editor = Editor(removal.gm, "")
        name = editor.free_name(f"{index.target}_kept")
        node.replace_input_with(index, editor.buffer(name, renumbered.to(old.dtype), before=node))


_UPDATES = {
    aten.reshape.default: _reshape,
    aten.expand.default: _size,
    aten.zeros.default: _size,
    aten.ones.default: _size,
    aten.full.default: _size,
    aten.new_zeros.default: _size,
    aten.new_ones.default: _size,
    aten.new_full.default: _size,
    aten.slice.Tensor: _slice,
    aten.slice_scatter.default: _slice,
    aten.select.int: _select,
    aten.index.Tensor: _index,
    aten.index_select.default: _index,
    aten.roll.default: _roll,
    aten.conv1d.default: _groups,
    aten.conv2d.default: _groups,
    aten.conv3d.default: _groups,
    aten.conv_transpose1d.default: _groups,
    aten.conv_transpose2d.input: _groups,
    aten.conv_transpose3d.input: _groups,
    aten.group_norm.default: _groups,
    aten.channel_shuffle.default: _groups,
    aten.layer_norm.default: _layer_norm,
    aten.rms_norm.default: _layer_norm,
    aten.scaled_dot_product_attention.default: _attention,
    aten.constant_pad_nd.default: _pad,
}

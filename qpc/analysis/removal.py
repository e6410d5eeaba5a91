"""Take channels out of a graph: slice tensors by their labels and bring every size up to date."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from qpc.analysis.atoms import Labels, collapse
from qpc.analysis.channels import ChannelAnalysis, describe_node
from qpc.companions import elementwise_companions
from qpc.edit import Editor
from qpc.errors import InvariantError
from qpc.meta import attribute, info, update_info
from qpc.ops import views
from qpc.ops.views import arguments, aten, set_arguments
from qpc.shapes import BatchDim, infer_shapes


class Removal:
    """One removal of a set of units from one graph."""

    def __init__(self, gm: GraphModule, analysis: ChannelAnalysis, units: frozenset[int]) -> None:
        self.gm, self.analysis = gm, analysis
        self._units = torch.tensor(sorted(units), dtype=torch.int64)
        self._kept: dict[Node, list[Tensor]] = {}

    def run(self) -> None:
        """Slice parameters, update arguments, and infer all shapes anew."""
        for node in self.gm.graph.nodes:
            if node.op == "call_function" and node in self.analysis.values:
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
        return torch.isin(core, self._units).expand(shape)

    def kept(self, node: Node) -> list[Tensor]:
        """For each axis of a value which indices stay: bool[size]."""
        if node not in self._kept:
            gone = self.goes(self.analysis.values[node])
            self._kept[node] = [~_whole_slices(gone, axis) for axis in range(gone.dim())]
            rest = gone
            for axis, stays in enumerate(self._kept[node]):
                if not bool(stays.all()):
                    rest = rest.index_select(axis, stays.nonzero().flatten())
            if bool(collapse(rest)[0].any()):
                raise InvariantError(
                    f"the channels to remove are no whole slices of {describe_node(node)}",
                    node=node,
                )
        return self._kept[node]

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


# --- arguments that depend on sizes -----------------------------------------------------------------


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


def _expand(removal: Removal, node: Node) -> None:
    given, counts = list(arguments(node)["size"]), removal.counts(node)
    shape = info(node).shape or ()
    sizes = [
        count if isinstance(g, int) and g != -1 and not isinstance(d, BatchDim) else g
        for g, d, count in zip(given, shape, counts, strict=True)
    ]
    set_arguments(node, size=sizes)


def _slice(removal: Removal, node: Node) -> None:
    """The bounds count the channels kept before them."""
    given = arguments(node)
    source = given["self"]
    axis = int(given["dim"]) % len(removal.kept(source))
    stays = removal.kept(source)[axis]
    if bool(stays.all()) or not all(isinstance(given[n], int) for n in ("start", "end")):
        return
    first, last, step = slice(given["start"], given["end"], given["step"]).indices(len(stays))
    picked = torch.zeros_like(stays)
    picked[first:last:step] = True
    start, end = int(stays[:first].sum()), int(stays[:last].sum())
    places = picked[stays].nonzero().flatten()
    if len(places) and step > 1:
        start, end = int(places[0]), int(places[-1]) + 1
        steps = set(torch.diff(places).tolist())
        if len(steps) > 1:
            raise InvariantError(
                f"{describe_node(node)} cannot pick the channels that are left", node=node
            )
        step = steps.pop() if steps else 1
    set_arguments(node, dim=axis, start=start, end=end, step=step)


def _select(removal: Removal, node: Node) -> None:
    given = arguments(node)
    stays = removal.kept(given["self"])
    axis = int(given["dim"]) % len(stays)
    index = int(given["index"]) % len(stays[axis])
    if not bool(stays[axis].all()):
        set_arguments(node, index=int(stays[axis][:index].sum()))


def _conv(removal: Removal, node: Node) -> None:
    """Where whole groups of a convolution go, fewer are left."""
    given = arguments(node)
    groups = int(given["groups"])
    if groups > 1:
        stays = removal.kept(given["input"])[1].reshape(groups, -1)
        left = int(stays.any(dim=1).sum())
        if left != groups:
            set_arguments(node, groups=left)


def _group_norm(removal: Removal, node: Node) -> None:
    given = arguments(node)
    stays = removal.kept(given["input"])[1].reshape(int(given["num_groups"]), -1)
    set_arguments(node, num_groups=int(stays.any(dim=1).sum()))


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
    view = views.Pad(node)
    labels = removal.analysis.values[node]
    amounts = list(view.pad)
    for position in range(0, len(amounts), 2):
        axis = labels.dim() - 1 - position // 2
        stays = removal.kept(node)[axis]
        before, after = amounts[position : position + 2]
        if not bool(stays.all()) and before >= 0 and after >= 0:
            size = len(stays)
            amounts[position] = int(stays[:before].sum())
            amounts[position + 1] = int(stays[size - after :].sum())
    set_arguments(node, pad=amounts)


_UPDATES = {
    aten.reshape.default: _reshape,
    aten.expand.default: _expand,
    aten.slice.Tensor: _slice,
    aten.slice_scatter.default: _slice,
    aten.select.int: _select,
    aten.conv1d.default: _conv,
    aten.conv2d.default: _conv,
    aten.conv3d.default: _conv,
    aten.conv_transpose1d.default: _conv,
    aten.conv_transpose2d.input: _conv,
    aten.group_norm.default: _group_norm,
    aten.layer_norm.default: _layer_norm,
    aten.scaled_dot_product_attention.default: _attention,
    aten.constant_pad_nd.default: _pad,
}

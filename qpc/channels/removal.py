"""Take channels out of a graph: slice tensors by their labels and bring every size up to date."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from qpc.channels.atoms import Labels, collapse
from qpc.channels.flow import describe
from qpc.channels.groups import ChannelAnalysis
from qpc.companions import elementwise_companions
from qpc.edit import Editor
from qpc.errors import InvariantError
from qpc.lineage import note_removal
from qpc.meta import attribute, update_info
from qpc.registry import Through, seen_through, spec_of
from qpc.shapes import infer_shapes


class Removal:
    """One removal of a set of units from one graph."""

    def __init__(self, gm: GraphModule, analysis: ChannelAnalysis, units: frozenset[int]) -> None:
        self.gm, self.analysis = gm, analysis
        self._gone = analysis.marks(units)
        self._kept: dict[Node, list[Tensor]] = {}

    def run(self) -> None:
        """Slice parameters, update arguments, and infer all shapes anew."""
        for node in self.gm.graph.nodes:
            spec = spec_of(node)
            if spec is None or spec.shrink is None:
                continue  # most operators take their sizes from their inputs
            if node in self.analysis.values or _reads_a_parameter(node):
                spec.shrink(self, node)
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
        if node not in self._kept and (node.op == "get_attr" or node not in self.analysis.values):
            source = _parameter(node)
            assert source is not None, f"{node.name} has no labels"
            self._kept[node] = self._kept_of_parameter(source)
        if node not in self._kept:
            lines = [self._kept_by(node, labels) for labels in self.analysis.values[node]]
            self._kept[node] = [torch.stack(axis).all(0) for axis in zip(*lines, strict=True)]
        return self._kept[node]

    def _kept_by(self, node: Node, labels: Labels) -> list[Tensor]:
        """As `kept`, by the labels of one axis."""
        gone = self.goes(labels)
        kept = [~_whole_slices(gone, axis) for axis in range(gone.dim())]
        rest = gone
        for axis, stays in enumerate(kept):
            if not bool(stays.all()):
                rest = rest.index_select(axis, stays.nonzero().flatten())
        if bool(collapse(rest)[0].any()):
            raise InvariantError(
                f"the channels to remove are no whole slices of {describe(node)}", node=node
            )
        return kept

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
        noted: dict[tuple[str, int], Tensor] = {}
        tied = _tied_names(self.gm)
        for axis in self.analysis.axes:
            stays = ~self.goes(axis.labels)
            if bool(stays.all()):
                continue
            old = attribute(self.gm, axis.name)
            aliases = tied.get(id(old), [axis.name])
            if isinstance(old, nn.Parameter):
                noted |= {(alias, axis.axis): stays for alias in aliases}
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
        note_removal(self.gm, noted)


def _reads_a_parameter(node: Node) -> bool:
    """Whether a call is a part of a parameter, or the whole of it rounded to a grid."""
    known = seen_through(node) in (Through.ROWS, Through.WHOLE)
    return known and _parameter(node.all_input_nodes[0]) is not None


def _parameter(node: Node) -> Node | None:
    """The parameter that is, but for rounding and observing, the value of `node`."""
    while seen_through(node) is Through.WHOLE:
        node = node.all_input_nodes[0]
    return node if node.op == "get_attr" else None


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

"""Values picked by their numbers: indexing and embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.fx.node import map_arg

from qpc.calls import arguments, aten
from qpc.channels.atoms import Labels, compact, spread, varying_axes
from qpc.channels.flow import describe, pin_inputs
from qpc.edit import Editor
from qpc.meta import attribute, info
from qpc.registry import OpSpec, Quantization, Role

if TYPE_CHECKING:
    from qpc.channels.flow import Flow
    from qpc.channels.removal import Removal
    from qpc.conversion import Conversion

# --- channels -------------------------------------------------------------------------------------


def _channels(flow: Flow, node: Node) -> Labels:
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
        elif len(indexed) == 1 and (known := _constant_index(flow.gm, chosen)) is not None:
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


def _constant_index(gm: GraphModule, node: Node) -> Tensor | None:
    """A list of channel numbers that is a buffer."""
    if node.op != "get_attr":
        return None
    value = attribute(gm, str(node.target))
    return value if value.dim() == 1 and value.dtype in (torch.int32, torch.int64) else None


def _embedding(flow: Flow, node: Node) -> list[Labels]:
    """Rows are looked up by number, so that they stay; the features are channels."""
    weight = arguments(node)["weight"]
    if flow.parameter(weight) is None:
        return [pin_inputs(flow, node)]
    outgoing = flow.produce(weight, 1)
    flow.looked_up(node, weight, 0)
    return [spread(outgoing, -1, flow.shape(node))]


def _shrink_index(removal: Removal, node: Node) -> None:
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
        old = _constant_index(removal.gm, index)
        assert old is not None, "channels are picked by constants only"
        places = old % len(stays[axis])
        renumbered = (torch.cumsum(stays[axis], 0) - 1)[places[stays[axis][places]]]
        editor = Editor(removal.gm, "")
        name = editor.free_name(f"{index.target}_kept")
        node.replace_input_with(index, editor.buffer(name, renumbered.to(old.dtype), before=node))


def _refuse(node: Node) -> str | None:
    """Constant places of a value; a mask would make values of unknown sizes."""
    source, *places = node.all_input_nodes
    if source.op == "get_attr":
        return "it picks values of a parameter"
    known = (torch.int32, torch.int64)
    constant = all(n.op == "get_attr" and info(n).dtype in known for n in places)
    return None if constant else "its places are no constant numbers"


def _convert(conversion: Conversion) -> Node:
    """The same places of the integers."""
    node = conversion.node
    args = map_arg(node.args, lambda source: conversion.integers.get(source, source))
    return conversion.again(*args, **node.kwargs)


_PICK = Quantization(Role.MOVE, _refuse, _convert, leaves_values=True)
SPECS = (
    *(
        OpSpec(
            target,
            quantization=_PICK,
            channels=_channels,
            shrink=_shrink_index,
            exact=True,
            picks=True,
        )
        for target in (aten.index.Tensor, aten.index_select.default)
    ),
    OpSpec(aten.gather.default, exact=True),
    OpSpec(aten.embedding.default, channels_together=_embedding, exact=True),
)

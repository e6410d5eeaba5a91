"""Values picked by their numbers."""

from __future__ import annotations

from torch.fx import Node

from qpc.calls import arguments, aten
from qpc.errors import UnsupportedOpError
from qpc.exporting.onnx.exporter import Exporter, Rule


def _embedding(to: Exporter, node: Node) -> str:
    return to.emit("Gather", [to.value(node, "weight"), to.value(node, "indices")], axis=0)


def _index_select(to: Exporter, node: Node) -> str:
    given = arguments(node)
    axis = given["dim"] % len(to.shape(given["self"]))
    return to.emit("Gather", [to.value(node, "self"), to.value(node, "index")], axis=axis)


def _gather(to: Exporter, node: Node) -> str:
    given = arguments(node)
    axis = given["dim"] % len(to.shape(node))
    return to.emit("GatherElements", [to.value(node, "self"), to.value(node, "index")], axis=axis)


def _index(to: Exporter, node: Node) -> str:
    """`aten.index`: by one tensor, or by several for axes side by side from the first."""
    given = arguments(node)
    places = [(axis, i) for axis, i in enumerate(given["indices"]) if i is not None]
    name, dtypes = to.value(node, "self"), {str(to.type(i).dtype) for _, i in places}
    if "torch.bool" in dtypes or "torch.uint8" in dtypes:
        raise UnsupportedOpError("no ONNX form for an index of truth values", node=node)
    if len(places) == 1:
        ((axis, index),) = places
        return to.emit("Gather", [name, to.of(index)], axis=axis)
    if [axis for axis, _ in places] != list(range(len(places))):
        raise UnsupportedOpError("no ONNX form for an index of axes behind the first", node=node)
    shape = to.shape(node)[: max(len(to.shape(i)) for _, i in places)]
    columns = [
        to.reshaped(to.emit("Expand", [to.of(i), to.extents(shape)]), (*shape, 1))
        for _, i in places
    ]
    return to.emit("GatherND", [name, to.emit("Concat", columns, axis=len(shape))])


RULES: dict[object, Rule] = {
    aten.embedding.default: _embedding,
    aten.index_select.default: _index_select,
    aten.gather.default: _gather,
    aten.index.Tensor: _index,
    aten._unsafe_index.Tensor: _index,
}

"""From a graph to its document."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.fx import GraphModule, Node

from qpc.documents import SAVED_GRAPH, described
from qpc.lineage import KeptAxis, lineage
from qpc.meta import info
from qpc.quant.grid import QParams
from qpc.storage import operators, values
from qpc.storage.schema import TensorEntry
from qpc.types import Dim, dtype_name
from qpc.version import VERSION

_PLAIN = (
    "module_path",
    "origin",
    "value",
    "declined",
    "integer",
    "frozen",
    "observer",
)  # of NodeInfo


def document_of(
    gm: GraphModule, tensors: Sequence[tuple[TensorEntry, Tensor]], data: bytes
) -> dict[str, Any]:
    """The document of a graph; `data` is the file of its tensors.

    Raises TypeError for values that no document can hold.
    """
    document = {
        "format": SAVED_GRAPH.mark,
        "format_version": SAVED_GRAPH.version,
        "qpc": VERSION,
        "files": described({SAVED_GRAPH.files[0]: data}),
        "tensors": [entry.model_dump() for entry, _ in tensors],
        "nodes": [_node(node) for node in gm.graph.nodes],
    }
    parameters = ((e, t) for e, t in tensors if isinstance(t, nn.Parameter))  # buffers have no past
    shapes = {name: tensor.shape for entry, tensor in parameters for name in entry.names}
    kept = [
        _kept(name, axis, left)
        for (name, axis), left in lineage(gm).items()
        if len(left.kept) == size_along(shapes.get(name, ()), axis)  # it is still that tensor
    ]
    return document | ({"kept": kept} if kept else {})


def size_along(shape: Sequence[int], axis: int) -> int | None:
    """The size of an axis, if there is one."""
    return shape[axis] if axis < len(shape) else None


def _kept(name: str, axis: int, left: KeptAxis) -> dict[str, Any]:
    digits = bytearray(b"0" * left.size)
    for index in left.kept:
        digits[-1 - index] = ord("1")
    return {"name": name, "axis": axis, "size": left.size, "kept": f"{int(digits, 2):x}"}


def _node(node: Node) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": node.name, "op": node.op}
    if node.op in ("placeholder", "get_attr"):
        entry["target"] = str(node.target)
    elif node.op == "call_function":
        entry["target"] = operators.name_of(node.target)
        entry["args"] = [values.encode(a) for a in node.args]
        entry["kwargs"] = {k: values.encode(v) for k, v in node.kwargs.items()}
    else:
        entry["result"] = values.encode(node.args[0])
    return entry | {key: value for key, value in _about(node).items() if value not in ("", False)}


def _about(node: Node) -> dict[str, Any]:
    about = info(node)
    found = {name: getattr(about, name) for name in _PLAIN}
    found["stack_trace"] = node.stack_trace or ""
    if about.shape is not None:
        found["shape"] = [_dim(d) for d in about.shape]
    if about.dtype is not None:
        found["dtype"] = dtype_name(about.dtype)
    if about.config is not None:
        found["config"] = about.config.model_dump(mode="json")
    if about.qparams is not None:
        found["qparams"] = _grid(about.qparams)
    return {key: value for key, value in found.items() if value is not None}


def _grid(grid: QParams) -> dict[str, Any]:
    ends = {name: getattr(grid, name) for name in ("scale", "zero_point", "lo", "hi")}
    return ends | {"dtype": dtype_name(grid.dtype)}


def _dim(dim: Dim) -> int | list[int]:
    return dim if isinstance(dim, int) else [dim.factor, dim.offset]

"""From a document to a graph. All of it is checked before a GraphModule is made.

A GraphModule is Python source that is made of a graph and run. So nothing reaches it but names that
are names, operators of a closed list with arguments of the right types, and tensors whose shapes
were seen to fit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_arg

from qpc.calls import arguments, qpc_ops
from qpc.errors import QPCError
from qpc.lineage import KeptAxis, set_lineage
from qpc.meta import info, update_info
from qpc.quant.config import LayerConfig
from qpc.quant.grid import QParams
from qpc.shapes import probed_shapes
from qpc.storage import operators, tensors, values
from qpc.storage.encode import size_along
from qpc.storage.operands import check_operands
from qpc.storage.schema import (
    Call,
    Document,
    Entry,
    GetAttr,
    GridEntry,
    KeptEntry,
    Output,
    Placeholder,
)
from qpc.types import BatchDim, Dim, Shape, dtype_of, format_shape, resolve

# Operators run to find all shapes, those within others included: in all, for any graph, and more
# for each of its nodes.
_MOST_STEPS, _STEPS_OF_ANY, _STEPS_OF_A_NODE = 24_000, 4_000, 8
_MOST_AXES = 64  # as many as PyTorch computes on
_MOST_ELEMENTS = 2**33  # of one value for one image


def graph_module(document: Document, stored: Mapping[str, Tensor]) -> GraphModule:
    """The graph of a document and its tensors. Raises ValueError for what must not be made."""
    root = nn.Module()
    tensors.attach_all(root, document.tensors, stored)
    gm = GraphModule(root, checked_graph(document, root))
    for held in (gm._modules, gm._parameters, gm._buffers):
        held.clear()  # it takes over only what the graph reads, in the order in which it does
    tensors.attach_all(gm, document.tensors, stored)
    set_lineage(gm, {(e.name, e.axis): _kept(gm, e) for e in document.kept})
    gm.graph.lint()
    return gm.eval()


def checked_graph(document: Document, root: nn.Module) -> Graph:
    """The graph of a document, whose tensors are those of `root`.

    Raises ValueError, with the name of the node, for what must not be made.
    """
    graph, nodes = Graph(), dict[str, Node]()
    known = {name for entry in document.tensors for name in entry.names}
    for entry in document.nodes:
        try:
            node = _made(graph, entry, nodes, known)
            _note_info(node, entry)
        except (ValueError, QPCError) as e:
            raise ValueError(f"node {entry.name!r}: {e}") from e
        if node.name != entry.name:
            raise ValueError(f"no node can be called {entry.name!r}")
        nodes[entry.name] = node
    _check_observers(graph, root)
    _check_shapes(graph, root)
    return graph


def _made(graph: Graph, entry: Entry, nodes: Mapping[str, Node], known: set[str]) -> Node:
    if isinstance(entry, Placeholder):
        return graph.create_node("placeholder", entry.target, name=entry.name)
    if isinstance(entry, GetAttr):
        if entry.target not in known:
            raise ValueError(f"there is no tensor {entry.target!r}")
        return graph.create_node("get_attr", entry.target, name=entry.name)
    if isinstance(entry, Output):
        result = values.decode(entry.result, nodes)
        _check_result(result)
        return graph.create_node("output", "output", (result,), name=entry.name)
    return _made_call(graph, entry, nodes)


def _made_call(graph: Graph, entry: Call, nodes: Mapping[str, Node]) -> Node:
    target = operators.find(entry.target)
    args = tuple(values.decode(a, nodes) for a in entry.args)
    kwargs = {k: values.decode(v, nodes) for k, v in entry.kwargs.items()}
    operators.check_call(target, args, kwargs)
    return graph.create_node("call_function", target, args, kwargs, name=entry.name)


def _check_result(result: object) -> None:
    if isinstance(result, list | tuple):
        for value in result:
            _check_result(value)
    elif isinstance(result, dict):
        for value in result.values():
            _check_result(value)
    elif not (result is None or isinstance(result, Node | bool | int | float | str)):
        raise ValueError(f"a graph does not return {type(result).__name__}")


def _kept(gm: GraphModule, entry: KeptEntry) -> KeptAxis:
    marks = int(entry.kept, 16)
    known = dict(gm.named_parameters(remove_duplicate=False))
    shape = known[entry.name].shape if entry.name in known else ()
    if marks.bit_count() != size_along(shape, entry.axis):
        raise ValueError(f"{entry.name!r} has no axis {entry.axis} with what is kept of it")
    indices = [i for i, digit in enumerate(reversed(f"{marks:b}")) if digit == "1"]
    return KeptAxis(entry.size, tuple(indices))


# --- node info ------------------------------------------------------------------------------------


def _note_info(node: Node, entry: Entry) -> None:
    if entry.stack_trace:
        node.stack_trace = entry.stack_trace
    dtype = None if entry.dtype is None else dtype_of(entry.dtype)
    if entry.dtype is not None and dtype is None:
        raise ValueError(f"there is no dtype {entry.dtype!r}")
    update_info(
        node,
        shape=None if entry.shape is None else tuple(_dim(d) for d in entry.shape),
        dtype=dtype,
        config=None if entry.config is None else LayerConfig.model_validate(entry.config),
        qparams=None if entry.qparams is None else _grid(entry.qparams),
        module_path=entry.module_path,
        origin=entry.origin,
        value=entry.value,
        declined=entry.declined,
        integer=entry.integer,
        frozen=entry.frozen,
        observer=entry.observer,
    )


def _grid(entry: GridEntry) -> QParams:
    dtype = {"int8": torch.int8, "uint8": torch.uint8}[entry.dtype]
    return QParams(entry.scale, entry.zero_point, entry.lo, entry.hi, dtype)


def _dim(dim: int | list[int]) -> Dim:
    return dim if isinstance(dim, int) else BatchDim(*dim)


# --- what must fit --------------------------------------------------------------------------------


def _check_observers(graph: Graph, root: nn.Module) -> None:
    """Observers keep their statistics in a module, which they name."""
    modules = {name for name, _ in root.named_modules(remove_duplicate=False)}
    for node in graph.nodes:
        if node.target is qpc_ops.observe.default:
            name = arguments(node)["observer"]
            if name not in modules:
                raise ValueError(f"node {node.name!r}: there is no observer {name!r}")


def _check_shapes(graph: Graph, root: nn.Module) -> None:
    """Shapes and dtypes are those that the operators yield."""
    for node in graph.nodes:
        if node.op == "placeholder" and (info(node).shape is None or info(node).dtype is None):
            raise ValueError(f"node {node.name!r}: an input has a shape and a dtype")
    most = min(_MOST_STEPS, _STEPS_OF_ANY + _STEPS_OF_A_NODE * len(graph.nodes))
    try:
        for node, shape, dtype in probed_shapes(graph, root, _check_before, most=most):
            about = info(node)
            if shape is not None:
                _check_size(node, shape)
            if about.shape is not None and shape is not None and about.shape != shape:
                raise ValueError(
                    f"node {node.name!r}: its shape is {format_shape(shape)}, "
                    f"not {format_shape(about.shape)}"
                )
            if (about.shape is None) < (shape is None) or about.dtype not in (None, dtype):
                raise ValueError(f"node {node.name!r}: its value is {dtype}, not {about.dtype}")
    except QPCError as e:
        raise ValueError(e.full_text) from e


def _check_size(node: Node, shape: Shape) -> None:
    if len(shape) > _MOST_AXES:
        raise ValueError(f"node {node.name!r}: its value has {len(shape)} axes")
    if math.prod(resolve(shape, 1)) > _MOST_ELEMENTS:
        raise ValueError(f"node {node.name!r}: a value of shape {format_shape(shape)} is too large")


def _check_before(node: Node, known: Mapping[Node, Any]) -> None:
    if node.op == "call_function":
        args: Any = map_arg(node.args, known.__getitem__)
        kwargs: Any = map_arg(node.kwargs, known.__getitem__)
        check_operands(node.target, args, kwargs)

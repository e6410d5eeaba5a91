"""Save graphs and load them without the Python class of the model: safetensors and JSON.

A saved graph is a folder with `graph.json` (structure, node info, versions, the SHA-256 of the
tensors) and `tensors.safetensors` (parameters and buffers under their names). Any core-form graph
can be saved: traced, pruned, observed, fake-quantized or integer.
"""

from __future__ import annotations

import hashlib
import json
import math
import operator
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn
from torch._ops import OpOverload
from torch.fx import Graph, GraphModule, Node

from qpc import documents
from qpc.documents import SAVED_GRAPH
from qpc.errors import ArtifactError
from qpc.facts import CORE_FORM, require_graph
from qpc.meta import info, update_info
from qpc.ops.registry import SHAPE_ARITHMETIC
from qpc.quant.config import LayerConfig
from qpc.quant.grid import QParams
from qpc.shapes import BatchDim, Dim
from qpc.version import VERSION

_FORMAT = 1
_GRAPH, _TENSORS = "graph.json", "tensors.safetensors"
_REMAKE = "save the graph again with qpc.save_graph"


def save_graph(gm: GraphModule, path: str | os.PathLike[str]) -> None:
    """Write a core-form graph to the folder `path`, replacing a graph that was saved there before.

    The folder appears whole or not at all. Raises ArtifactError if it cannot be written, or holds
    anything else.
    """
    require_graph(gm, "save_graph")
    if broken := CORE_FORM.check(gm):
        raise ArtifactError(
            f"cannot save a graph that is not in core form: {broken}",
            fix="make graphs with qpc.trace",
        )
    tensors = save_tensors(_tensors(gm))
    document = _encode_graph(gm)
    document["sha256"] = hashlib.sha256(tensors).hexdigest()
    text = json.dumps(document, indent=1, allow_nan=False) + "\n"
    documents.write(path, {_TENSORS: tensors, _GRAPH: text.encode()}, SAVED_GRAPH)


def load_graph(path: str | os.PathLike[str]) -> GraphModule:
    """Return the graph that `save_graph` wrote; everything is checked before it is built.

    Raises ArtifactError if the folder is no saved graph, is damaged, or was written by another
    version.
    """
    folder = Path(path)
    document = _read_document(folder)
    try:
        raw = (folder / _TENSORS).read_bytes()
    except OSError as e:
        raise ArtifactError(f"{str(folder)!r} has no {_TENSORS}", fix=_REMAKE) from e
    if hashlib.sha256(raw).hexdigest() != document["sha256"]:
        raise ArtifactError(f"{_TENSORS} in {str(folder)!r} is damaged", fix=_REMAKE)
    try:
        return _decode_graph(document, load_tensors(raw))
    except (KeyError, TypeError, ValueError, SafetensorError) as e:
        raise ArtifactError(f"{_GRAPH} in {str(folder)!r} is damaged: {e}", fix=_REMAKE) from e


def _read_document(folder: Path) -> dict[str, Any]:
    try:
        document = json.loads((folder / _GRAPH).read_text(encoding="utf-8"))
    except OSError as e:
        raise ArtifactError(f"{str(folder)!r} is no saved graph: it has no {_GRAPH}") from e
    except ValueError as e:
        raise ArtifactError(f"{_GRAPH} in {str(folder)!r} is damaged: {e}", fix=_REMAKE) from e
    if not isinstance(document, dict) or document.get("format") != _FORMAT:
        raise ArtifactError(
            f"{str(folder)!r} was saved in another format than this version's ({_FORMAT})",
            fix=_REMAKE,
        )
    return document


# --- tensors
# ----------------------------------------------------------------------------------------


def _tensors(gm: GraphModule) -> dict[str, Tensor]:
    """Every tensor once, contiguous; tied names are listed in the document."""
    return {
        names[0]: _packed(tensor)
        if tensor.dtype is torch.bool
        else tensor.detach().clone().contiguous()
        for names, tensor in _by_identity(gm).values()
    }


def _packed(mask: Tensor) -> Tensor:
    """A bool tensor with eight values to the byte."""
    return torch.from_numpy(np.packbits(mask.detach().cpu().numpy().reshape(-1)))


def _unpacked(bits: Tensor, shape: list[int]) -> Tensor:
    values = np.unpackbits(bits.numpy(), count=math.prod(shape)).astype(bool)
    return torch.from_numpy(values.reshape(shape))


def _by_identity(gm: GraphModule) -> dict[int, tuple[list[str], Tensor]]:
    found: dict[int, tuple[list[str], Tensor]] = {}
    for kind in (gm.named_parameters, gm.named_buffers):
        for name, tensor in kind(remove_duplicate=False):
            found.setdefault(id(tensor), ([], tensor))[0].append(name)
    return found


def _attach_all(
    root: nn.Module, document: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> None:
    for entry in document["tensors"]:
        value = tensors[entry["names"][0]]
        if entry["bits_of"] is not None:
            value = _unpacked(value, entry["bits_of"])
        if entry["parameter"]:
            value = nn.Parameter(value, requires_grad=entry["requires_grad"])
        for name in entry["names"]:
            _attach(root, name, value)


def _attach(root: nn.Module, name: str, tensor: Tensor) -> None:
    *path, leaf = name.split(".")
    for part in path:
        if part not in root._modules:
            root.add_module(part, nn.Module())
        root = root.get_submodule(part)
    if isinstance(tensor, nn.Parameter):
        root.register_parameter(leaf, tensor)
    else:
        root.register_buffer(leaf, tensor)


# --- graphs
# -----------------------------------------------------------------------------------------


def _encode_graph(gm: GraphModule) -> dict[str, Any]:
    tensors = [
        {
            "names": names,
            "parameter": isinstance(tensor, nn.Parameter),
            "requires_grad": tensor.requires_grad,
            "bits_of": list(tensor.shape) if tensor.dtype is torch.bool else None,
        }
        for names, tensor in _by_identity(gm).values()
    ]
    nodes = [_encode_node(node) for node in gm.graph.nodes]
    return {"format": _FORMAT, "qpc": VERSION, "tensors": tensors, "nodes": nodes}


def _decode_graph(document: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> GraphModule:
    root = nn.Module()
    _attach_all(root, document, tensors)
    graph = Graph()
    nodes: dict[str, Node] = {}
    for entry in document["nodes"]:
        target = (
            _decode_target(entry["target"]) if entry["op"] == "call_function" else entry["target"]
        )
        args = tuple(_decode(a, nodes) for a in entry["args"])
        kwargs = {k: _decode(v, nodes) for k, v in entry["kwargs"].items()}
        node = graph.create_node(entry["op"], target, args, kwargs, name=entry["name"])
        _decode_info(node, entry)
        nodes[entry["name"]] = node
    gm = GraphModule(root, graph)
    _attach_all(gm, document, tensors)  # GraphModule takes over only what the graph reads
    gm.graph.lint()
    return gm.eval()


def _encode_node(node: Node) -> dict[str, Any]:
    about = info(node)
    entry: dict[str, Any] = {
        "name": node.name,
        "op": node.op,
        "target": _encode_target(node.target) if node.op == "call_function" else str(node.target),
        "args": [_encode(a) for a in node.args],
        "kwargs": {k: _encode(v) for k, v in node.kwargs.items()},
        "stack_trace": node.stack_trace,
        "shape": None if about.shape is None else [_encode_dim(d) for d in about.shape],
        "dtype": _encode(about.dtype),
        "config": None if about.config is None else about.config.model_dump(mode="json"),
        "qparams": None if about.qparams is None else _encode_grid(about.qparams),
    }
    for name in ("module_path", "origin", "value", "declined", "integer", "observer"):
        entry[name] = getattr(about, name)
    return entry


def _decode_info(node: Node, entry: Mapping[str, Any]) -> None:
    if entry["stack_trace"]:
        node.stack_trace = entry["stack_trace"]
    shape, config, grid = entry["shape"], entry["config"], entry["qparams"]
    update_info(
        node,
        shape=None if shape is None else tuple(_decode_dim(d) for d in shape),
        dtype=_decode(entry["dtype"], {}),
        config=None if config is None else LayerConfig.model_validate(config),
        qparams=None if grid is None else QParams(**{**grid, "dtype": _decode(grid["dtype"], {})}),
        **{
            name: entry[name]
            for name in ("module_path", "origin", "value", "declined", "integer", "observer")
        },
    )


def _encode_grid(grid: QParams) -> dict[str, Any]:
    return {
        "scale": grid.scale,
        "zero_point": grid.zero_point,
        "lo": grid.lo,
        "hi": grid.hi,
        "dtype": _encode(grid.dtype),
    }


def _encode_dim(dim: Dim) -> int | list[int]:
    return dim if isinstance(dim, int) else [dim.factor, dim.offset]


def _decode_dim(dim: int | list[int]) -> Dim:
    return dim if isinstance(dim, int) else BatchDim(*dim)


_ARITHMETIC = {f.__name__: cast("Callable[..., Any]", f) for f in SHAPE_ARITHMETIC}


def _encode_target(target: object) -> str:
    return str(target) if isinstance(target, OpOverload) else f"operator.{_name_of(target)}"


def _name_of(target: object) -> str:
    return getattr(target, "__name__", str(target))


def _decode_target(text: str) -> Callable[..., Any]:
    namespace, _, rest = text.partition(".")
    if namespace == operator.__name__.lstrip("_"):
        if rest not in _ARITHMETIC:
            raise ValueError(f"unknown function {text!r}")
        return _ARITHMETIC[rest]
    packet, _, overload = rest.rpartition(".")
    try:
        found = getattr(getattr(getattr(torch.ops, namespace), packet), overload)
    except (AttributeError, RuntimeError) as e:
        raise ValueError(f"unknown operator {text!r}") from e
    if not isinstance(found, OpOverload):
        raise TypeError(f"{text!r} is no operator overload")
    return found


# --- arguments
# --------------------------------------------------------------------------------------

_TORCH_VALUES = (torch.dtype, torch.memory_format, torch.layout)


def _encode(value: Any) -> Any:
    """An argument as JSON; what JSON has no form for becomes an object with one key."""
    if isinstance(value, Node):
        return {"node": value.name}
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple):
        return {"tuple": [_encode(v) for v in value]}
    if isinstance(value, list):
        return [_encode(v) for v in value]
    if isinstance(value, dict):
        return {"dict": {k: _encode(v) for k, v in value.items()}}
    if isinstance(value, _TORCH_VALUES):
        return {"torch": str(value).removeprefix("torch.")}
    if isinstance(value, torch.device):
        return {"device": str(value)}
    raise ArtifactError(f"an argument of type {type(value).__name__} cannot be saved")


def _decode(value: Any, nodes: Mapping[str, Node]) -> Any:
    if isinstance(value, list):
        return [_decode(v, nodes) for v in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    match kind:
        case "node":
            return nodes[content]
        case "float":
            return float(content)
        case "tuple":
            return tuple(_decode(v, nodes) for v in content)
        case "dict":
            return {k: _decode(v, nodes) for k, v in content.items()}
        case "device":
            return torch.device(content)
        case "torch":
            found = getattr(torch, content, None)
            if not isinstance(found, _TORCH_VALUES):
                raise TypeError(f"unknown torch value {content!r}")
            return found
    raise ValueError(f"unknown kind of argument {kind!r}")

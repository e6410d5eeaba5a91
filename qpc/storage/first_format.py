"""Graphs in format 1, which QPC 0.1 wrote: into the format of today, as data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from safetensors.torch import load, save

from qpc import documents
from qpc.documents import SAVED_GRAPH, damaged, sha256
from qpc.errors import ArtifactError

_GRAPH, (_TENSORS,) = SAVED_GRAPH.document, SAVED_GRAPH.files
_NONE = (None, "", False)


def second_format(content: Mapping[str, bytes], where: str) -> dict[str, bytes]:
    """The files of a graph of format 1 in format 2. What they say is checked when they are read.

    Raises ArtifactError if they are of no such graph, or damaged.
    """
    old = documents.parse(content.get(_GRAPH, b""), f"{_GRAPH} of {where}", SAVED_GRAPH.damaged)
    if old.get("format") != 1:
        raise ArtifactError(f"{where} is no graph of format 1", fix="load it with qpc.load_graph")
    if sha256(content.get(_TENSORS, b"")) != old.get("sha256"):
        raise damaged(f"{_TENSORS} of {where}", "it does not match its hash", SAVED_GRAPH.damaged)
    try:
        return _converted(old, content[_TENSORS])
    except Exception as e:  # the document may hold anything
        problem = f"{type(e).__name__}: {e}"[:300]
        raise damaged(f"{_GRAPH} of {where}", problem, SAVED_GRAPH.damaged) from e


def _converted(old: Mapping[str, Any], data: bytes) -> dict[str, bytes]:
    stored = load(data)
    for entry in old["tensors"]:
        if entry["bits_of"] is not None:  # the other order of bits
            name = entry["names"][0]
            bits = np.unpackbits(stored[name].numpy())
            stored[name] = torch.from_numpy(np.packbits(bits, bitorder="little"))
    tensors = save(stored)
    document = {
        "format": SAVED_GRAPH.mark,
        "format_version": SAVED_GRAPH.version,
        "qpc": old["qpc"],
        "files": documents.described({_TENSORS: tensors}),
        "tensors": old["tensors"],
        "nodes": [_node(node) for node in old["nodes"]],
    }
    return {_GRAPH: documents.seal(document), _TENSORS: tensors}


def _node(old: Mapping[str, Any]) -> dict[str, Any]:
    node = {key: value for key, value in old.items() if value not in _NONE}
    args, kwargs = node.pop("args", []), node.pop("kwargs", {})
    if "dtype" in node:
        node["dtype"] = node["dtype"]["torch"]
    if old["op"] == "call_function":
        node["args"] = [_value(a) for a in args]
        node["kwargs"] = {key: _value(value) for key, value in kwargs.items()}
    elif old["op"] == "output":
        del node["target"]
        (result,) = args
        node["result"] = _value(result)
    return node


def _value(old: Any) -> Any:
    if isinstance(old, list):
        return [_value(v) for v in old]
    if not isinstance(old, dict):
        return old
    ((kind, content),) = old.items()
    if kind == "tuple":
        return {kind: [_value(v) for v in content]}
    if kind == "dict":
        return {kind: [[key, _value(value)] for key, value in content.items()]}
    if kind == "torch":
        return _torch_value(content)
    return {kind: content}


def _torch_value(name: str) -> dict[str, str]:
    if name.endswith("_format") or name.startswith("channels_last"):
        return {"memory_format": f"torch.{name}"}
    return {"layout" if name == "strided" else "dtype": name}

"""Save graphs and load them without the Python class of the model: safetensors and JSON.

A saved graph is a folder with `graph.json` (structure and node info, sealed by a hash of all of it)
and `tensors.safetensors` (parameters and buffers under their names). Any core-form graph can be
saved: traced, pruned, observed, fake-quantized or integer.

A saved graph is data: nothing in it is executed or trusted. `schema.py` declares what the document
holds, `operators.py` which operators it may call with which arguments, and shapes are checked, all
before a graph is made of it. Memory is bounded by the size of the files: `graph.json` has at most
64 MiB, and takes some twenty times as much.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from torch.fx import GraphModule

from qpc import documents
from qpc.documents import SAVED_GRAPH, damaged
from qpc.errors import ArtifactError
from qpc.facts import CORE_FORM, require_graph
from qpc.modes import ordinary_torch
from qpc.storage import tensors
from qpc.storage.decode import checked_graph, graph_module
from qpc.storage.encode import document_of
from qpc.storage.first_format import second_format
from qpc.storage.schema import validated

_GRAPH, (_TENSORS,) = SAVED_GRAPH.document, SAVED_GRAPH.files


@ordinary_torch()
def save_graph(gm: GraphModule, path: str | os.PathLike[str]) -> None:
    """Write a core-form graph to the folder `path`, replacing a graph that was saved there before.

    The folder appears whole or not at all, and what was there before stays until then. Raises
    ArtifactError if it cannot be written, or holds anything else.
    """
    require_graph(gm, "save_graph")
    if broken := CORE_FORM.check(gm):
        raise ArtifactError(
            f"cannot save a graph that is not in core form: {broken}",
            fix="make graphs with qpc.trace",
        )
    documents.write(path, graph_files(gm), SAVED_GRAPH)


@ordinary_torch()
def load_graph(path: str | os.PathLike[str]) -> GraphModule:
    """Return the graph that `save_graph` wrote; everything is checked before it is built.

    Raises ArtifactError if the folder is no saved graph, is damaged, holds what no graph may, or
    was written by another version (`convert_graph` reads those of QPC 0.1).
    """
    return graph_of_files(documents.read(path, SAVED_GRAPH), repr(str(path)))


@ordinary_torch()
def convert_graph(path: str | os.PathLike[str], new_path: str | os.PathLike[str]) -> None:
    """Write the graph in the folder `path`, saved in format 1, to the folder `new_path`.

    It is checked like any other. Format 1 had no hash of its structure, so damage of that can have
    gone unnoticed. Raises ArtifactError if it is no such graph, or cannot be written.
    """
    content = second_format(documents.read(path, SAVED_GRAPH), repr(str(path)))
    graph_of_files(content, repr(str(path)))
    documents.write(new_path, content, SAVED_GRAPH)


def graph_files(gm: GraphModule) -> dict[str, bytes]:
    """What `save_graph` writes, by the names of the files. Raises ArtifactError as it does."""
    try:
        described = list(tensors.entries(gm))
        data = tensors.to_bytes(described)
        document = document_of(gm, described, data)
        checked_graph(validated(document), gm)  # what is saved can be loaded
        return {_GRAPH: documents.seal(document), _TENSORS: data}
    except Exception as e:  # whatever torch, safetensors and pydantic say is about the graph
        raise ArtifactError(
            f"this graph cannot be saved: {e}", fix=getattr(e, "fix", None) or _REGISTER
        ) from e


_REGISTER = "operators of your own can be saved if they are registered: qpc.register_operator"


def graph_of_files(content: Mapping[str, bytes], where: str) -> GraphModule:
    """The graph in the files that `graph_files` made. Raises ArtifactError as `load_graph` does."""
    document = documents.verified(content, SAVED_GRAPH, where)
    try:
        checked = validated(document)
        return graph_module(checked, tensors.from_bytes(content[_TENSORS], checked.tensors))
    except Exception as e:  # whatever torch, safetensors and pydantic say is about the file
        raise damaged(f"{_GRAPH} of {where}", str(e)[:500], SAVED_GRAPH.damaged) from e

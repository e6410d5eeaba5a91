"""What `qpc bench` does: find out what a path holds, make it run, and measure it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.fx import GraphModule

from qpc.backends.tvm.model import CompiledModel
from qpc.bench.compare import compare, table
from qpc.bench.peers import Array, installed_peers, usable_peers
from qpc.compiler import compile, load
from qpc.errors import ArtifactError, BackendError
from qpc.ops.views import qpc_ops
from qpc.recipes import to_integer
from qpc.storage import load_graph


@dataclass(frozen=True)
class Request:
    """One measurement.

    model: folder of a saved compiled model or of a saved quantized graph.
    graph: the saved graph that a compiled model was made from, without which other runtimes have
    nothing to run.
    threads: None for as many as the compiled model was made for, or one.
    peers: packages of other runtimes; None for all that are installed.
    """

    model: Path
    graph: Path | None = None
    threads: int | None = None
    batch: int = 1
    rounds: int = 50
    peers: Sequence[str] | None = None


@dataclass(frozen=True)
class Answer:
    """The result as text, as JSON values, and what could not be measured."""

    text: str
    data: dict[str, Any]
    notes: tuple[str, ...]


def run(request: Request) -> Answer:
    """Measure a saved model.

    Raises ArtifactError for a path that holds nothing to measure, BackendError for a request that
    does not fit the model, MissingDependencyError for a runtime that is asked for and missing.
    """
    compiled, graph = _opened(request)
    inputs = _inputs(compiled, request.batch)
    name = request.model.name
    if graph is None:
        measured = compiled.benchmark(inputs, repeats=request.rounds)
        note = "other runtimes need the graph: pass its folder with --graph"
        return Answer(f"{name}: {measured}", {"network": name} | vars(measured), (note,))
    threads = compiled.threads
    asked = list(request.peers) if request.peers is not None else installed_peers()
    usable, failures = usable_peers(asked, graph, request.batch, threads) if asked else ([], {})
    notes = [f"{peer} cannot run this model: {why}" for peer, why in failures.items()]
    if not asked:
        notes.append("no other runtime is installed: pip install 'qpc[bench]'")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = compare(
            name, graph, compiled, inputs, threads=threads, rounds=request.rounds, peers=usable
        )
    finally:
        torch.set_num_threads(before)
    return Answer(table(found), found.to_json() | {"failed_peers": failures}, tuple(notes))


def _opened(request: Request) -> tuple[CompiledModel, GraphModule | None]:
    """The compiled model, and the integer graph if there is one."""
    if (request.model / "graph.json").is_file():
        graph = _integer_graph(request.model)
        return compile(graph, threads=request.threads or 1, batch_sizes=(request.batch,)), graph
    if not (request.model / "manifest.json").is_file():
        raise ArtifactError(
            f"{str(request.model)!r} holds neither a saved graph nor a compiled model",
            fix="pass a folder that qpc.save_graph or .save(path) of a compiled model wrote",
        )
    compiled = load(request.model)
    if request.threads not in (None, compiled.threads):
        raise BackendError(
            f"the model was compiled for {compiled.threads} thread(s), not {request.threads}",
            fix="compile it with threads=..., or leave --threads out",
        )
    return compiled, None if request.graph is None else _integer_graph(request.graph)


def _integer_graph(path: Path) -> GraphModule:
    graph = load_graph(path)
    kinds = {node.target for node in graph.graph.nodes}
    if qpc_ops.quantize.default in kinds:
        return graph
    if qpc_ops.fake_quantize.default in kinds:
        return to_integer().run(graph)
    raise BackendError(
        f"the graph in {str(path)!r} is not quantized", fix="qpc.quantize it before it is saved"
    )


def _inputs(compiled: CompiledModel, batch: int) -> list[Array]:
    """Random inputs of one batch size."""
    types = compiled.signature.inputs.get(batch)
    if types is None:
        sizes = ", ".join(map(str, compiled.batch_sizes))
        raise BackendError(f"the model takes batches of {sizes}, not {batch}", fix="see --batch")
    rng = np.random.default_rng(0)
    dtypes = [str(t.dtype).removeprefix("torch.") for t in types]
    return [rng.random(t.shape).astype(d) for t, d in zip(types, dtypes, strict=True)]

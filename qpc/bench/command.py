"""What `qpc bench` does: find out what a path holds, make it run, and measure it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.fx import GraphModule

from qpc.backends.compiled import signature_of
from qpc.backends.tvm.runtime.model import CompiledModel
from qpc.bench.compare import compare
from qpc.bench.peer import Array
from qpc.bench.peers import usable_peers
from qpc.bench.request import Request, holds_graph, installed_peers
from qpc.bench.table import table
from qpc.calls import qpc_ops
from qpc.compiler import compile, load
from qpc.deployment import finished_graph
from qpc.errors import BackendError
from qpc.explanation.evaluation import Part
from qpc.installing import install_line
from qpc.types import dtype_name


@dataclass(frozen=True)
class Answer:
    """The result as text, as JSON values, and what could not be measured."""

    text: str
    data: dict[str, Any]
    notes: tuple[str, ...]


def run(
    request: Request,
    parts: Iterable[Part] = (),
    told: Callable[[str], None] = lambda what: None,
) -> Answer:
    """Measure a saved model.

    parts: labelled samples, to measure the accuracy of all. told: what is being measured.

    Raises like `Request.check`, ArtifactError for damage, and BackendError for a request that does
    not fit the model.
    """
    request.check()
    told("compiling")
    compiled, graph = _opened(request)
    inputs = _inputs(compiled, request.batch)
    name = request.name or request.model.resolve().name
    if graph is None:
        measured = compiled.benchmark(inputs, repeats=request.rounds)
        note = "other runtimes need the graph: pass its folder with --graph"
        return Answer(f"{name}: {measured}", {"network": name} | vars(measured), (note,))
    threads = compiled.threads
    asked = list(request.peers) if request.peers is not None else installed_peers()
    told("trying the other runtimes")
    usable, failures = usable_peers(asked, graph, request.batch, threads) if asked else ([], {})
    notes = [f"{peer} cannot run this model: {why}" for peer, why in failures.items()]
    if not asked:
        notes.append(f"no other runtime is installed: {install_line('bench')}")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = compare(
            name,
            graph,
            compiled,
            inputs,
            threads=threads,
            rounds=request.rounds,
            peers=usable,
            instances=request.instances,
            parts=parts,
            told=told,
        )
    finally:
        torch.set_num_threads(before)
    return Answer(table(found), found.to_json() | {"failed_peers": failures}, tuple(notes))


def _opened(request: Request) -> tuple[CompiledModel, GraphModule | None]:
    """The compiled model, and the integer graph if there is one."""
    if holds_graph(request.model):
        graph = _integer_graph(request.model)
        return compile(graph, threads=request.threads or 1, batch_sizes=(request.batch,)), graph
    compiled = load(request.model)
    if request.threads not in (None, compiled.threads):
        raise BackendError(
            f"the model was compiled for {compiled.threads} thread(s), not {request.threads}",
            fix="compile it with threads=..., or leave --threads out",
        )
    if request.graph is None:
        return compiled, None
    graph = _integer_graph(request.graph)
    if signature_of(graph, compiled.batch_sizes) != compiled.signature:
        raise BackendError(
            f"{str(request.model)!r} was not made from the graph in {str(request.graph)!r}",
            fix="pass the graph that it was compiled from",
        )
    return compiled, graph


def _integer_graph(path: Path) -> GraphModule:
    graph = finished_graph(path)
    if all(node.target is not qpc_ops.quantize.default for node in graph.graph.nodes):
        raise BackendError(
            f"the graph in {str(path)!r} is not quantized",
            fix="qpc.quantize it before it is saved",
        )
    return graph


def _inputs(compiled: CompiledModel, batch: int) -> list[Array]:
    """Random inputs of one batch size."""
    types = compiled.signature.inputs.get(batch)
    if types is None:
        sizes = ", ".join(map(str, compiled.batch_sizes))
        raise BackendError(f"the model takes batches of {sizes}, not {batch}", fix="see --batch")
    rng = np.random.default_rng(0)
    dtypes = [dtype_name(t.dtype) for t in types]
    return [rng.random(t.shape).astype(d) for t, d in zip(types, dtypes, strict=True)]

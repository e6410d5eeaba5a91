"""From a graph to a library for C programs: `qpc.export_library`."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.fx import GraphModule

from qpc.backends.deploy.deployable import checked_name
from qpc.backends.deploy.projects import write_project
from qpc.backends.options import CompileOptions, is_count
from qpc.calls import qpc_ops
from qpc.compiler import require_facts
from qpc.errors import BackendError
from qpc.facts import CORE_FORM
from qpc.modes import ordinary_torch
from qpc.pipeline import Pipeline
from qpc.recipes import to_integer
from qpc.storage import load_graph
from qpc.targets import Target

if TYPE_CHECKING:
    from qpc.backends.deploy.library import ExportedLibrary
    from qpc.backends.options import Cache
    from qpc.backends.tvm.export import Compiled

__all__ = ["export_library", "export_saved", "finished_graph", "name_for", "write_project"]

VECTORS = 2
FORMS = ("objects", "c")
WEIGHTS = ("arrays", "blob")


@ordinary_torch()
def export_library(
    gm: nn.Module,
    target: Target | str | Sequence[Target | str],
    out: str | os.PathLike[str],
    *,
    name: str = "model",
    batch: int = 1,
    threads: int = 1,
    examples: Sequence[Sequence[object]] = (),
    vectors: int = VECTORS,
    cache: Cache = True,
    form: str = "objects",
    weights: str = "arrays",
) -> ExportedLibrary:
    """Write a graph as a static library with a C header, which needs no Python, PyTorch or TVM.

    gm: a core-form graph, as `qpc.compile` takes it. target: a name that `qpc targets` lists, the
    path of a YAML file, or a `qpc.Target`; or several of them for 64-bit ARM with Linux, beginning
    with what every CPU can do, the best last: the library holds code for all, and each call takes
    the best that the CPU has. out: a folder that does not exist, or holds a library of that name.
    name: what all of its symbols begin with.
    batch: the batch size. threads: among how many a call may be shared; with more than one the
    program brings the threads, see the samples in the folder.
    examples: inputs for test vectors, a tuple of tensors or arrays each; vectors: how many test
    vectors there are, random ones besides the examples.
    cache: as for `qpc.compile`.
    form: "objects" for machine code, or "c" for one file of C99 that any compiler takes, for one
    thread.
    weights: of C source, "arrays" in it, or a "blob" beside it, which the assembler includes:
    compilers need long for arrays of megabytes.

    Outputs that depend on integer operators only are the same bits as PyTorch's: `qpc verify` on
    the folder shows it, on this machine, in an emulator, or on a board.

    Raises BackendError and its kin for what cannot be compiled or does not fit the board, and
    ArtifactError if the folder cannot be written.
    """
    from qpc.backends.deploy.instruction_sets import check_targets
    from qpc.backends.deploy.vectors import make_cases
    from qpc.backends.tvm.compat import require_tvm

    if not isinstance(gm, GraphModule):
        raise BackendError(
            f"export_library needs a traced graph, got {type(gm).__name__}",
            fix="gm = qpc.trace(model, example_inputs), then qpc.quantize(gm, batches) for int8",
        )
    _check(name, form, vectors, weights, examples)
    options = CompileOptions((batch,), threads, cache)
    chosen = _targets(target)
    if len(chosen) > 1:
        check_targets(chosen, form, threads)
    gm = _prepared(gm)
    require_tvm()
    from qpc.backends.tvm.export import compile_deployable

    cases = make_cases(gm, batch, max(vectors, len(examples)), examples)
    compiled = [
        compile_deployable(gm, each, name, options, cases, c=form == "c") for each in chosen
    ]
    return _write(compiled, form, weights, out)


def _prepared(gm: GraphModule) -> GraphModule:
    from qpc.backends.tvm.backend import BACKEND

    require_facts(gm, BACKEND)
    if not BACKEND.preparation:
        return gm
    return Pipeline(BACKEND.preparation, BACKEND.requires | {CORE_FORM}).run(gm)


def _targets(target: Target | str | Sequence[Target | str]) -> list[Target]:
    each: list[Any] = [*target] if isinstance(target, list | tuple) else [target]  # or what is none
    if not each:
        raise BackendError("there is no target", fix="`qpc targets` lists them")
    return [one if isinstance(one, Target) else Target.parse(one) for one in each]


def _write(
    compiled: Sequence[Compiled], form: str, weights: str, out: str | os.PathLike[str]
) -> ExportedLibrary:
    from qpc.backends.deploy.c_source import write_c
    from qpc.backends.deploy.instruction_sets import write_instruction_sets
    from qpc.backends.deploy.library import write_objects
    from qpc.backends.tvm.codegen.llvm_dispatch import dispatch_object
    from qpc.backends.tvm.codegen.llvm_entry import entry_object

    models, code = [c.model for c in compiled], [c.code for c in compiled]
    if len(compiled) > 1:
        return write_instruction_sets(models, code, entry_object, dispatch_object, out)
    if form == "c":
        return write_c(models[0], code[0], out, weights=weights)
    return write_objects(models[0], (*code[0], entry_object(models[0])), out)


def _check(name: object, form: object, vectors: object, weights: object, examples: object) -> None:
    checked_name(name)
    if form not in FORMS:
        raise BackendError(
            f"form must be one of {', '.join(map(repr, FORMS))}, got {form!r}",
            fix="form='objects' for machine code, form='c' for C source",
        )
    if weights not in WEIGHTS or (form != "c" and weights != WEIGHTS[0]):
        raise BackendError(
            f"weights must be {' or '.join(map(repr, WEIGHTS))}, and {WEIGHTS[0]!r} but for C "
            f"source, got {weights!r}",
            fix="form='c', weights='blob' (--emit c --constants blob)",
        )
    if not is_count(vectors):
        raise BackendError(f"vectors must be a positive number, got {vectors!r}")
    if not isinstance(examples, list | tuple) or any(
        not isinstance(example, list | tuple) for example in examples
    ):
        raise BackendError(
            "examples must be a list of tuples",
            fix="examples=[(x, ...), ...]: a tuple of inputs for each test vector",
        )


def export_saved(
    model: str | os.PathLike[str], target: Target | str, out: str | os.PathLike[str], **options: Any
) -> ExportedLibrary:
    """Write the graph in the folder `model`, which `qpc.save_graph` wrote, as a library.

    A fake-quantized graph is converted to an integer one before. options: see `export_library`;
    without a name the library is called as the folder is, as far as C allows.

    Raises as `export_library` does, and ArtifactError if there is no such graph.
    """
    chosen = target if isinstance(target, Target) else Target.parse(target)
    graph = finished_graph(model)
    name = options.pop("name", None) or name_for(model)
    return export_library(graph, chosen, out, name=name, **options)


@ordinary_torch()
def finished_graph(path: str | os.PathLike[str]) -> GraphModule:
    """The saved graph in a folder; for a fake-quantized one, the integer graph it stands for."""
    graph = load_graph(path)
    if any(node.target is qpc_ops.fake_quantize.default for node in graph.graph.nodes):
        return to_integer().run(graph)
    return graph


def name_for(path: str | os.PathLike[str]) -> str:
    """The name of a folder as far as C allows it, else "model"."""
    plain = re.sub(r"[^a-z0-9_]+", "_", Path(path).resolve().name.lower()).strip("_")[:40]
    try:
        return checked_name(plain)
    except BackendError:
        return "model"

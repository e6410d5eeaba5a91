"""From a graph to something that runs: the front door of the backends."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, cast, overload

from torch import nn
from torch.fx import GraphModule

from qpc import documents
from qpc.backends.compiled import CallableModel
from qpc.backends.options import CompileOptions
from qpc.backends.protocol import Backend
from qpc.backends.registry import DEFAULT, find_backend, known_backends
from qpc.errors import ArtifactError, BackendError
from qpc.facts import CORE_FORM
from qpc.modes import ordinary_torch
from qpc.pipeline import Pipeline
from qpc.targets import PRESETS, TARGETS, Target

if TYPE_CHECKING:
    from qpc.backends.reference.model import ReferenceModel
    from qpc.backends.tvm.runtime.model import CompiledModel

_NATIVE = "native"


@overload
def compile(  # type: ignore[overload-overlap]  # any other string is a CPU
    gm: nn.Module,
    target: Literal["reference"],
    *,
    batch_sizes: Sequence[int] = (1,),
    threads: int = 1,
) -> ReferenceModel: ...
@overload
def compile(
    gm: nn.Module,
    target: Target | str = _NATIVE,
    *,
    batch_sizes: Sequence[int] = (1,),
    threads: int = 1,
    cache: bool | str | os.PathLike[str] = True,
    tune: bool | float = False,
    backend: None = None,
) -> CompiledModel: ...
@overload
def compile(
    gm: nn.Module,
    target: Target | str = _NATIVE,
    *,
    batch_sizes: Sequence[int] = (1,),
    threads: int = 1,
    cache: bool | str | os.PathLike[str] = True,
    tune: bool | float = False,
    backend: str | Backend,
) -> CallableModel: ...
@ordinary_torch()
def compile(  # the name users type: qpc.compile
    gm: nn.Module,
    target: Target | str = _NATIVE,
    *,
    batch_sizes: Sequence[int] = (1,),
    threads: int = 1,
    cache: bool | str | os.PathLike[str] = True,
    tune: bool | float = False,
    backend: str | Backend | None = None,
) -> CallableModel:
    """Return a graph as a compiled model, which takes torch tensors or numpy arrays.

    gm: a core-form graph: what `qpc.trace` returns (it runs in float), or `qpc.quantize` (int8).
    target: "native" for this machine's CPU, a name that `qpc.Target.parse` knows, or "reference" to
    run the graph in PyTorch, which defines the right integer answer. The name of any other backend
    will do, too.
    batch_sizes: the batch sizes that the model will take.
    threads: how many threads a call may use; small layers are not shared among them.
    cache: whether kernels are kept on disk, where the next compilation finds them; or a folder for
    them, in place of `$QPC_CACHE_DIR`, else `~/.cache/qpc`.
    tune: whether to measure which kernels are fastest, or for how many seconds at the most.
    backend: what compiles the graph, by name or itself, if the target does not say it.

    Raises BackendError and its kin; see `qpc.backends.tvm.compile_graph`.
    """
    if not isinstance(gm, GraphModule):
        raise BackendError(
            f"compile needs a traced graph, got {type(gm).__name__}",
            fix="gm = qpc.trace(model, example_inputs), then qpc.quantize(gm, batches) for int8",
        )
    options = CompileOptions(batch_sizes, threads, cache, tune)
    chosen = chosen_backend(target, backend)
    require_facts(gm, chosen)
    if chosen.preparation:
        gm = Pipeline(chosen.preparation, chosen.requires | {CORE_FORM}).run(gm)
    return chosen.compile(gm, target, options)


def chosen_backend(target: Target | str, backend: str | Backend | None = None) -> Backend:
    """The backend that is asked for, or the one of which the target is the name, or that for CPUs.

    Raises BackendError if there is none of that name.
    """
    if backend is None:
        named = find_backend(target) if isinstance(target, str) and not _is_cpu(target) else None
        return named or _of_name(DEFAULT)
    return _of_name(backend) if isinstance(backend, str) else backend


def _is_cpu(target: str) -> bool:
    own = target.endswith((".yaml", ".yml"))
    return own or target == _NATIVE or any(target == known.name for known in (*TARGETS, *PRESETS))


def _of_name(name: str) -> Backend:
    found = find_backend(name)
    if found is None:
        raise BackendError(
            f"there is no backend {name!r}",
            fix=f"use one of {', '.join(known_backends())}, or install the package that brings it",
        )
    return found


def require_facts(gm: GraphModule, backend: Backend) -> None:
    """Raise BackendError for the first fact that a backend requires and that does not hold."""
    for fact in sorted(backend.requires, key=lambda fact: (fact != CORE_FORM, fact.name)):
        if broken := fact.violation(gm):
            raise BackendError(
                f"the graph is {fact.otherwise or f'not {fact.name}'}: {broken}",
                node=broken.node,
                fix=fact.fix,
            )


@ordinary_torch()
def load(path: str | os.PathLike[str]) -> CompiledModel:
    """Return the compiled model that `.save(path)` wrote; all is checked before any of it is used.

    The backend that its manifest names opens it, and returns a model of its own class. A compiled
    model is a program: load only what you trust. The checks find damage, not intent.

    Raises ArtifactError if it is damaged, made for another ABI or CPU, or by a backend that is
    not there.
    """
    name = documents.named_backend(path) or DEFAULT
    found = find_backend(name)
    if found is None:
        raise ArtifactError(
            f"{str(path)!r} was compiled by the backend {name!r}, which is not there",
            fix="install the package that brings it, or call qpc.register_backend before",
        )
    return cast("CompiledModel", found.load(path))  # what all but plug-ins return

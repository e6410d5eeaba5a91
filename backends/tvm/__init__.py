"""Compile integer graphs to machine code with Apache TVM."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from qpc.backends.common.traits import MemoryOrder
from qpc.backends.tvm.compat import require_tvm
from qpc.backends.tvm.custom import (
    CustomKernel,
    KernelRequest,
    register_decomposition,
    register_kernel,
)
from qpc.modes import ordinary_torch

if TYPE_CHECKING:  # `qpc bench` says what is wrong before it imports torch
    from torch.fx import GraphModule

    from qpc.backends.options import Cache
    from qpc.backends.tvm.runtime.model import CompiledModel
    from qpc.targets import Target

__all__ = [
    "CustomKernel",
    "KernelRequest",
    "MemoryOrder",
    "compile_graph",
    "load",
    "register_decomposition",
    "register_kernel",
    "unpickled",
]


def compile_graph(
    gm: GraphModule,
    target: Target | str = "native",
    *,
    batch_sizes: Sequence[int] = (1,),
    threads: int = 1,
    cache: Cache = True,
    tune: bool | float = False,
) -> CompiledModel:
    """Return `gm`, a core-form graph, as machine code.

    Integer operators run as QPC's own kernels and give the bits that the reference backend gives;
    other operators run in float through TVM's rules, and the model's `report` lists them.

    target: the CPU to compile for; code for another CPU can be saved but not run here.
    batch_sizes: the model takes these, and no others.
    threads: how many threads a call uses.
    cache: whether to keep the machine code of kernels for the next time, or the folder for it. The
    folder is `$QPC_CACHE_DIR`, or `qpc` in `$XDG_CACHE_HOME`, or `~/.cache/qpc`. What is in it is
    run, so it is used only if it belongs to this user or root and nobody else may write to it.
    tune: whether to measure other tiles of the kernels than those that the cost model chooses, for
    the first of the batch sizes, or how many seconds at the most (60). What was measured is kept
    next to the kernels, and not measured again. The model is never slower for it.

    Raises MissingDependencyError without the right TVM, UnsupportedTargetError for an unknown
    target, UnsupportedOpError for an operator that neither QPC nor TVM can compile, and
    BackendError for other things that the kernels cannot do.
    """
    from qpc.backends.options import CompileOptions
    from qpc.backends.tvm.backend import BACKEND

    return BACKEND.compile(gm, target, CompileOptions(batch_sizes, threads, cache, tune))


def load(path: str | os.PathLike[str]) -> CompiledModel:
    """Return the model that was saved to the folder `path`.

    Everything is checked before any of it is used. The checks find damage, not intent: a compiled
    model is a program, so load only what you trust. Raises ArtifactError if the folder is not a
    saved model, is damaged or incomplete, or was made for another ABI (see `qpc.runtime`) or for
    another CPU.
    """
    from qpc.backends.tvm.backend import BACKEND

    return BACKEND.load(path)


@ordinary_torch()
def unpickled(files: Mapping[str, bytes]) -> CompiledModel:
    """What pickles of compiled models call: the model in the files that `.save` would write.

    Raises ArtifactError as `load` does.
    """
    require_tvm()
    from qpc.backends.tvm.runtime import artifact

    return artifact.from_files(files)

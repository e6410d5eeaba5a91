"""From a graph to something that runs: the front door of the backends."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, overload

from torch import nn
from torch.fx import GraphModule, Node

from qpc.backends import reference, tvm
from qpc.calls import qpc_ops
from qpc.errors import BackendError
from qpc.facts import CORE_FORM
from qpc.modes import ordinary_torch
from qpc.target import Target

if TYPE_CHECKING:
    from qpc.backends.reference.model import ReferenceModel
    from qpc.backends.tvm.runtime.model import CompiledModel


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
    target: Target | str = "native",
    *,
    batch_sizes: Sequence[int] = (1,),
    threads: int = 1,
    cache: bool | str | os.PathLike[str] = True,
    tune: bool | float = False,
) -> CompiledModel: ...
@ordinary_torch()
def compile(  # the name users type: qpc.compile
    gm: nn.Module,
    target: Target | str = "native",
    *,
    batch_sizes: Sequence[int] = (1,),
    threads: int = 1,
    cache: bool | str | os.PathLike[str] = True,
    tune: bool | float = False,
) -> ReferenceModel | CompiledModel:
    """Return a graph as a compiled model, which takes torch tensors or numpy arrays.

    gm: a core-form graph: what `qpc.trace` returns (it runs in float), or `qpc.quantize` (int8).
    target: "native" for this machine's CPU, a name that `qpc.Target.parse` knows, or "reference" to
    run the graph in PyTorch, which defines the right integer answer.
    batch_sizes: the batch sizes that the model will take.
    threads: how many threads a call may use; small layers are not shared among them.
    cache: whether kernels are kept on disk, where the next compilation finds them; or a folder for
    them, in place of `$QPC_CACHE_DIR`, else `~/.cache/qpc`.
    tune: whether to measure which kernels are fastest, or for how many seconds at the most.

    Raises BackendError and its kin; see `qpc.backends.tvm.compile_graph`.
    """
    if not isinstance(gm, GraphModule):
        raise BackendError(
            f"compile needs a traced graph, got {type(gm).__name__}",
            fix="gm = qpc.trace(model, example_inputs), then qpc.quantize(gm, batches) for int8",
        )
    if broken := CORE_FORM.check(gm):
        raise BackendError(
            f"the graph is not in core form: {broken}",
            fix="make graphs with qpc.trace, not with torch.fx.symbolic_trace",
        )
    if target != "reference" and (found := _unfinished(gm)):
        raise BackendError(
            f"the graph is on its way to integers: it calls {found.target}",
            node=found,
            fix="finish with qpc.quantize, or qpc.recipes.to_integer() for a fake-quantized graph",
        )
    if target == "reference":
        return reference.compile_graph(gm, batch_sizes=batch_sizes)
    return tvm.compile_graph(
        gm, target, batch_sizes=batch_sizes, threads=threads, cache=cache, tune=tune
    )


def _unfinished(gm: GraphModule) -> Node | None:
    """A call that stands in a graph only between tracing and conversion to integers."""
    between = (qpc_ops.observe.default, qpc_ops.fake_quantize.default)
    return next((n for n in gm.graph.nodes if n.target in between), None)


@ordinary_torch()
def load(path: str | os.PathLike[str]) -> CompiledModel:
    """Return the compiled model that `.save(path)` wrote; all is checked before any of it is used.

    A compiled model is a program: load only what you trust. The checks find damage, not intent.

    Raises ArtifactError if it is damaged, or made for another version or CPU.
    """
    return tvm.load(path)

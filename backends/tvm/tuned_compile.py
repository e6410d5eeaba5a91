"""The compilation, with tuning before it if that is asked for."""

from __future__ import annotations

from torch.fx import GraphModule

from qpc.backends.options import CompileOptions
from qpc.backends.tvm import compile as plain
from qpc.backends.tvm.custom import registered_decompositions, registered_kernels
from qpc.backends.tvm.kernels.conv.tiling import Tuner
from qpc.backends.tvm.measure.tuning import better_tiles, is_faster, tuner_of
from qpc.backends.tvm.runtime.model import CompiledModel
from qpc.errors import BackendError
from qpc.targets import Target


def compile_graph(gm: GraphModule, target: Target | str, options: CompileOptions) -> CompiledModel:
    """See `qpc.backends.tvm.compile_graph`."""
    if options.seconds:
        _require_own_operators(gm)
    chosen = target if isinstance(target, Target) else Target.parse(target)

    def compiled(tuner: Tuner | None = None) -> CompiledModel:
        return plain.compile_graph(gm, chosen, options, tuner)

    model = compiled()
    if not options.seconds:
        return model
    tiles = better_tiles(
        gm,
        chosen,
        batch=model.batch_sizes[0],
        threads=options.threads,
        seconds=options.seconds,
        cache=options.cache,
    )
    if not tiles:
        return model
    other = compiled(tuner_of(tiles))
    return other if is_faster(other, model, options.threads) else model


def _require_own_operators(gm: GraphModule) -> None:
    """Raise BackendError for machine code of other packages, which only this process knows."""
    others = registered_kernels().keys() | registered_decompositions().keys()
    for node in gm.graph.nodes:
        if node.target in others:
            raise BackendError(
                f"tuning measures in another process, which has no machine code for {node.target}",
                node=node,
                fix="compile without tune=",
            )

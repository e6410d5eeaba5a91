"""The compilation, with tuning before it if that is asked for."""

from __future__ import annotations

from collections.abc import Sequence

from torch.fx import GraphModule

from qpc.backends.tvm import compile as plain
from qpc.backends.tvm.codegen.cache import Cache, folder_of
from qpc.backends.tvm.kernels.conv.tiling import Tuner
from qpc.backends.tvm.measure.tuning import better_tiles, is_faster, seconds_of, tuner_of
from qpc.backends.tvm.runtime.model import CompiledModel
from qpc.target import Target


def compile_graph(
    gm: GraphModule,
    target: Target | str = "native",
    *,
    batch_sizes: Sequence[int] = (1,),
    threads: int = 1,
    cache: Cache = True,
    tune: bool | float = False,
) -> CompiledModel:
    """See `qpc.backends.tvm.compile_graph`."""
    seconds = seconds_of(tune)
    folder_of(cache)  # rather than after the graph was lowered
    chosen = target if isinstance(target, Target) else Target.parse(target)

    def compiled(tuner: Tuner | None = None) -> CompiledModel:
        return plain.compile_graph(
            gm, chosen, batch_sizes=batch_sizes, threads=threads, cache=cache, tuner=tuner
        )

    model = compiled()
    if not seconds:
        return model
    tiles = better_tiles(
        gm,
        chosen,
        batch=model.batch_sizes[0],
        threads=threads,
        seconds=seconds,
        cache=cache,
    )
    if not tiles:
        return model
    other = compiled(tuner_of(tiles))
    return other if is_faster(other, model, threads) else model

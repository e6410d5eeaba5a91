"""Compile a core-form graph with TVM."""

from __future__ import annotations

from dataclasses import replace

from torch.fx import GraphModule
from tvm import relax

from qpc.analysis.exactness import exactness
from qpc.backends.common.graph_plan import plan_graph
from qpc.backends.compiled import signature_of
from qpc.backends.options import CompileOptions
from qpc.backends.tvm.codegen.build import build
from qpc.backends.tvm.codegen.cache import open_cache
from qpc.backends.tvm.custom import registered_decompositions
from qpc.backends.tvm.kernels.conv.tiling import Tuner
from qpc.backends.tvm.kernels.isa.choose import isa_for
from qpc.backends.tvm.lowering.emitter import Emitter, Weights
from qpc.backends.tvm.lowering.lower import lower
from qpc.backends.tvm.lowering.rules import trait_table
from qpc.backends.tvm.report import Report
from qpc.backends.tvm.runtime.manifest import interface
from qpc.backends.tvm.runtime.model import CompiledModel, Parts
from qpc.backends.tvm.runtime.seal import sealed
from qpc.backends.tvm.stopwatch import Stopwatch
from qpc.errors import BackendError, QPCError
from qpc.targets import Target


def compile_graph(
    gm: GraphModule,
    target: Target | str = "native",
    options: CompileOptions | None = None,
    tuner: Tuner | None = None,
) -> CompiledModel:
    """See `qpc.backends.tvm.compile_graph`; the tuner may choose the tiles of kernels."""
    options = options or CompileOptions()
    threads = options.threads
    chosen = target if isinstance(target, Target) else Target.parse(target)
    clock = Stopwatch()
    with clock.stage("lower"):
        signature = signature_of(gm, options.batch_sizes)
        builder, weights = relax.BlockBuilder(), Weights()
        emit = Emitter(builder, isa_for(chosen), threads, weights, tuner)
        known = trait_table(), registered_decompositions(), emit.activation
        plans = {batch: plan_graph(gm, batch, *known) for batch in signature.batch_sizes}
        functions = {batch: lower(emit, plan) for batch, plan in plans.items()}
    try:
        code = build(builder.get(), functions, weights, chosen, clock, open_cache(options.cache))
    except QPCError:
        raise
    except Exception as e:  # TVM's passes raise whatever comes up
        raise BackendError(
            f"TVM cannot compile the graph for {chosen.name!r}: {str(e).strip()}",
            fix="express the operator that it names with others, or use the reference backend",
        ) from e
    # What is fused is the same for all batch sizes: the report is about the last of them, and how
    # each kernel computes is in the plan of each.
    uses = tuple(use for use in emit.kernel_uses if use.nodes)
    report = Report(uses, tuple(emit.other_uses), exactness(gm), clock.seconds)
    about = interface(signature, threads, code.entries, weights.tensors)
    code = replace(code, library=sealed(code.library, about))
    return CompiledModel(Parts(signature, chosen, threads, code, weights.tensors, report))

"""Compile a core-form graph with TVM."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import tvm
from torch.fx import GraphModule
from tvm import relax

from qpc.analysis.exactness import exactness
from qpc.backends.common.graph_plan import plan_graph
from qpc.backends.compiled import Signature, signature_of
from qpc.backends.options import CompileOptions
from qpc.backends.tvm.codegen.build import Pieces, build, finished
from qpc.backends.tvm.codegen.cache import KernelCache, open_cache
from qpc.backends.tvm.custom import registered_decompositions
from qpc.backends.tvm.kernels.conv.tiling import Tuner
from qpc.backends.tvm.kernels.isa.choose import isa_for
from qpc.backends.tvm.lowering.emitter import Emitter, Weights
from qpc.backends.tvm.lowering.lower import LoweredFunction, lower
from qpc.backends.tvm.lowering.rules import trait_table
from qpc.backends.tvm.report import Report
from qpc.backends.tvm.runtime.artifact import sealed_parts
from qpc.backends.tvm.runtime.model import CompiledModel, Parts
from qpc.backends.tvm.runtime.tensors import stored
from qpc.backends.tvm.stopwatch import Stopwatch
from qpc.backends.vectors import make_vectors
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
    program = lowered(gm, chosen, options, tuner)
    clock, weights = program.clock, program.weights
    with _named_failures(chosen):
        cache = open_cache(options.cache)
        code = build(program.module, program.functions, weights, chosen, clock, cache)
    with clock.stage("test vectors"):
        vectors = make_vectors(gm, program.signature)
    # What is fused is the same for all batch sizes: the report is about the last of them, and how
    # each kernel computes is in the plan of each.
    uses = tuple(use for use in program.emit.kernel_uses if use.nodes and not use.in_float)
    report = Report(uses, tuple(program.emit.other_uses), exactness(gm), clock.seconds)
    constants = {name: stored(tensor) for name, tensor in weights.tensors.items()}
    parts = Parts(program.signature, chosen, threads, code, constants, report, vectors)
    return CompiledModel(sealed_parts(parts))


def compile_pieces(
    gm: GraphModule, target: Target, options: CompileOptions
) -> tuple[Pieces, Lowered]:
    """Kernels and entry plans of a core-form graph, and the program that they were made from."""
    program = lowered(gm, target, options)

    def finish(pieces: Pieces, cache: KernelCache) -> Pieces:
        cache.trim()
        return pieces

    with _named_failures(target):
        cache = open_cache(options.cache)
        pieces = finished(
            program.module,
            program.functions,
            program.weights,
            target,
            program.clock,
            cache,
            finish,
        )
    return pieces, program


@dataclass(frozen=True)
class Lowered:
    """A graph as a program of TVM, and what is known about it."""

    module: tvm.IRModule
    functions: Mapping[int, LoweredFunction]
    weights: Weights
    signature: Signature
    emit: Emitter
    clock: Stopwatch


def lowered(
    gm: GraphModule, target: Target, options: CompileOptions, tuner: Tuner | None = None
) -> Lowered:
    """The program of a core-form graph, with a function for each batch size."""
    clock = Stopwatch()
    with clock.stage("lower"):
        signature = signature_of(gm, options.batch_sizes)
        builder, weights = relax.BlockBuilder(), Weights()
        emit = Emitter(builder, isa_for(target), options.threads, weights, tuner)
        known = trait_table(), registered_decompositions(), emit.activation
        plans = {batch: plan_graph(gm, batch, *known) for batch in signature.batch_sizes}
        functions = {batch: lower(emit, plan) for batch, plan in plans.items()}
    return Lowered(builder.get(), functions, weights, signature, emit, clock)


@contextmanager
def _named_failures(target: Target) -> Iterator[None]:
    """Whatever TVM's passes raise, as an error of ours."""
    try:
        yield
    except QPCError:
        raise
    except Exception as e:
        raise BackendError(
            f"TVM cannot compile the graph for {target.name!r}: {str(e).strip()}",
            fix="express the operator that it names with others, or use the reference backend",
        ) from e

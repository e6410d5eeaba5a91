"""Pipelines: ordered passes, checked before they run."""

from __future__ import annotations

import time
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from torch.fx import GraphModule

from qpc.base import Pass, PassContext
from qpc.errors import ConfigError, InvariantError, PassError, PipelineOrderError, QPCError
from qpc.facts import CORE_FORM, Fact, require_graph
from qpc.meta import copied
from qpc.modes import ordinary_torch
from qpc.settings import require_kind
from qpc.shapes import infer_shapes


@dataclass(frozen=True)
class Pipeline:
    """Passes in the order they run. Building one checks the order; running one copies the model.

    assume: facts that hold for the graphs that will be run; `qpc.trace` returns core form. They are
    checked when a graph is run.
    """

    passes: tuple[Pass, ...]
    assume: AbstractSet[Fact] = frozenset({CORE_FORM})

    def __post_init__(self) -> None:
        if not isinstance(self.passes, tuple):
            raise ConfigError(
                f"passes must be a tuple, got {type(self.passes).__name__}",
                fix="Pipeline((FirstPass(), SecondPass()))",
            )
        known = set(self.assume)
        for position, pass_ in enumerate(self.passes):
            if not isinstance(pass_, Pass):
                raise ConfigError(
                    f"item {position} of the pipeline is {pass_!r}, not a pass instance"
                )
            if missing := pass_.requires - known:
                names = ", ".join(sorted(fact.name for fact in missing))
                raise PipelineOrderError(
                    f"pass {pass_.name!r} (#{position}) requires {names}, "
                    "which nothing before it establishes",
                    fix=f"put a pass that establishes {names} before it, or list it in assume=",
                )
            known = _after(pass_, known)

    def __add__(self, other: Pipeline) -> Pipeline:
        """The passes of both, the other's after this one's."""
        return Pipeline(self.passes + other.passes, self.assume)

    @ordinary_torch()
    def run(self, gm: GraphModule, ctx: PassContext | None = None) -> GraphModule:
        """Return a transformed copy of `gm`, which is never touched. `ctx` collects the reports."""
        require_graph(gm, "a pipeline")
        ctx = ctx if ctx is not None else PassContext()
        require_kind("ctx", ctx, PassContext, "a PassContext", fix="ctx = qpc.PassContext()")
        known = set(self.assume)
        for fact in sorted(known, key=lambda f: f.name):
            if broken := fact.violation(gm, thorough=ctx.thorough):
                raise PassError(
                    f"the graph is not {fact.name}: {broken}",
                    fix="start from qpc.trace(model, example_inputs), "
                    "or from what the earlier passes returned",
                )
        gm = copied(gm)
        for pass_ in self.passes:
            changed = _run_one(pass_, gm, ctx)
            known = _after(pass_, known)
            if ctx.check:
                _check_facts(gm, known, pass_, ctx)
            if changed:
                gm.recompile()
        return gm


def _after(pass_: Pass, known: set[Fact]) -> set[Fact]:
    return (known - pass_.invalidates) | pass_.establishes


def _run_one(pass_: Pass, gm: GraphModule, ctx: PassContext) -> bool:
    start = time.perf_counter()
    try:
        with ctx.phase(pass_.name):
            changed = pass_.apply(gm, ctx)
            if changed:
                gm.graph.lint()
                infer_shapes(gm, only_missing=True)
    except QPCError as e:
        e.add_note(f"  in pass: {_short(pass_)}")
        raise
    except Exception as e:
        raise PassError(f"pass {pass_.name!r} failed: {type(e).__name__}: {e}") from e
    ctx.finish(pass_, seconds=time.perf_counter() - start, changed=changed)
    return changed


def _short(pass_: Pass) -> str:
    text = repr(pass_)
    return text if len(text) <= 200 else f"{text[:200]}..."


def _check_facts(gm: GraphModule, known: set[Fact], after: Pass, ctx: PassContext) -> None:
    for fact in sorted(known, key=lambda f: f.name):
        if broken := fact.violation(gm, thorough=ctx.thorough):
            raise InvariantError(
                f"after {after.name!r}, fact {fact.name!r} does not hold: {broken}"
            )

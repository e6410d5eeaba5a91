"""Quantization that tries what helps: `qpc.quantize(..., effort="best")`.

Of the methods that keep accuracy at few bits none helps every model, and each may harm one. So they
are tried, one question after the other, and what leaves the least error in the outputs is kept. The
error is that of samples which the methods have not seen.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from torch import Tensor
from torch.fx import GraphModule, Node

from qpc.analysis.channel_means import ChannelMeans
from qpc.analysis.side_by_side import decibels, first_samples, held_out, output_error
from qpc.base import Pass, PassContext, PassReport, Remark
from qpc.batches import Batch, checked_batches
from qpc.errors import ConfigError
from qpc.facts import CORE_FORM, FAKE_QUANTIZED, require_graph
from qpc.layers import float_layer
from qpc.meta import info, label
from qpc.passes import (
    Calibrate,
    CompensateRounding,
    CorrectBias,
    EqualizeWeights,
    FakeQuantize,
    FitWeightScales,
    FlattenConv3d,
    FoldBatchNorm,
    FoldWeights,
    InsertObservers,
    LearnRounding,
    LiftConv1d,
    LinearProducts,
    MatchMoments,
    QuantizeWeights,
    RemoveIdentities,
    SmoothActivations,
)
from qpc.pipeline import Pipeline
from qpc.quant.config import LayerConfig, QuantConfig

_log = logging.getLogger("qpc.base")

EFFORTS = ("fast", "default", "best")
"""What `qpc.quantize` takes: round to nearest; correct cheaply; try what helps."""

_SAMPLES = 128
_CHUNK = 32
_EIGHT = 8


def tidying(*, fold_later: bool = False) -> tuple[Pass, ...]:
    """What comes before observers are inserted.

    fold_later: batch norms are to train and be folded afterwards, so only arithmetic is now.
    """
    norms = FoldBatchNorm(arithmetic_only=fold_later)
    lower = LiftConv1d(), FlattenConv3d()
    weights = LinearProducts(), FoldWeights(operands=True)
    return *weights, norms, RemoveIdentities(), *lower


def storing(config: QuantConfig) -> tuple[Pass, ...]:
    """What gives layers their integer weights whose values stay float, if there may be any."""
    return (QuantizeWeights(config),) if config.modes != {"static"} else ()


def few_bits(config: QuantConfig) -> bool:
    """Whether a configuration gives weights of integer layers fewer than 8 bits anywhere."""
    used = [config.default, *(o.use for o in config.overrides if isinstance(o.use, LayerConfig))]
    return any(use.mode == "static" and use.weight.bits < _EIGHT for use in used)


def corrections(
    batches: Iterable[Batch], config: QuantConfig, means: ChannelMeans | None = None
) -> tuple[Pass, ...]:
    """What the default effort does behind FakeQuantize.

    means: those of layers in float on these batches, where calibration has taken them down.

    8 bits need their biases corrected and nothing else. With fewer, scales of weights are fitted to
    the outputs, and what rounding does to the spread of channels is taken back too.
    """
    if few_bits(config):
        return FitWeightScales(batches, bits=_EIGHT - 1), MatchMoments(batches)
    return (CorrectBias(batches, means=means),)


def best_quantization(
    gm: GraphModule,
    batches: Iterable[Batch],
    config: QuantConfig | None = None,
    ctx: PassContext | None = None,
) -> GraphModule:
    """Return `gm`, a traced float graph, fake-quantized as well as the methods known here can.

    batches: any iterable of batches as `qpc.passes.Calibrate` takes them. They are kept in memory;
    methods learn from the first 128 samples but every fourth, and are judged by these.
    ctx: collects the reports of the passes that were kept, and for each question one that says
    what was tried with which signal-to-noise ratio of the outputs (`choose-...`).

    Deterministic: the same batches give the same graph. Raises ConfigError if `config` has layers
    of another mode than "static".
    """
    require_graph(gm, "quantize")
    if other := sorted((config or QuantConfig()).modes - {"static"}):
        raise ConfigError(
            f'the effort "best" tries grids, and has no way to try the mode {other[0]!r}',
            fix='use effort="default", or mode="static" for all layers',
        )
    search = _Search(list(checked_batches(batches)), config or QuantConfig(), ctx or PassContext())
    return search.run(gm)


class _Quiet(PassContext):
    """Collects the remarks of an attempt, and logs nothing: it may not be kept."""

    def warn(self, node: Node | str, what: str) -> None:
        remark = Remark(label(node) if isinstance(node, Node) else node, what)
        if remark not in self._warnings:
            self._warnings.append(remark)


@dataclass(frozen=True)
class _Attempt:
    """What came of one option.

    aim: the float graph that it should equal; made: the fake-quantized graph so far; error: of its
    outputs, once means are corrected. reports: of the passes that made it.
    """

    aim: GraphModule
    made: GraphModule
    reports: tuple[PassReport, ...]
    error: float


_Option = Callable[[_Attempt], tuple[Pass, ...]]
"""The passes of an option, given what was kept so far; none for leaving that as it is."""


class _Search:
    def __init__(self, batches: list[Batch], config: QuantConfig, ctx: PassContext) -> None:
        self._batches, self._config, self._ctx = batches, config, ctx
        self._learned: list[Batch] = []
        self._judged: list[list[Tensor]] = []

    def run(self, gm: GraphModule) -> GraphModule:
        tidy = Pipeline(tidying()).run(gm, self._ctx)
        samples = first_samples(tidy, self._batches, _SAMPLES, "quantize")
        learned, self._judged = held_out(samples)
        self._learned = [list(piece) for batch in learned for piece in _pieces(batch)]
        kept = self._scaled(tidy)
        few = any(map(_has_few_bits, kept.made.graph.nodes))
        if few:
            kept = self._choose("choose-weight-scales", kept, self._fits(), tidy)
        kept = self._choose("choose-rounding", kept, self._roundings(few), tidy)
        kept = self._choose("choose-corrections", kept, self._corrections(), tidy, final=True)
        return kept.made

    # --- questions ------------------------------------------------------------------------------

    def _scaled(self, tidy: GraphModule) -> _Attempt:
        """Scale channels or do not, calibrate, and fix the grids."""
        options: Mapping[str, tuple[Pass, ...]] = {
            "as they are": (),
            "EqualizeWeights": (EqualizeWeights(self._learned),),
            "SmoothActivations(None)": (SmoothActivations(self._learned, None),),
            "SmoothActivations(0.5)": (SmoothActivations(self._learned, 0.5),),
            "SmoothActivations(0.25)": (SmoothActivations(self._learned, 0.25),),
        }
        start, attempts = time.perf_counter(), {}
        for name, passes in options.items():
            quiet = self._quiet()
            aim = Pipeline(passes).run(tidy, quiet) if passes else tidy
            if passes and not quiet.reports[-1].changed:
                continue
            grids = (InsertObservers(self._config), Calibrate(self._batches), FakeQuantize())
            made = Pipeline(grids).run(aim, quiet)
            attempts[name] = self._attempt(aim, made, quiet, tidy)
        return self._keep("choose-channel-scales", attempts, start)

    def _fits(self) -> Mapping[str, _Option]:
        return {
            "as observed": lambda kept: (),
            "FitWeightScales": lambda kept: (
                FitWeightScales(self._learned, _SAMPLES, bits=_EIGHT - 1),
            ),
        }

    def _roundings(self, few: bool) -> Mapping[str, _Option]:
        def compensate(kept: _Attempt, *, aim: bool) -> tuple[Pass, ...]:
            return (CompensateRounding(self._learned, _SAMPLES, aim=aim, reference=kept.aim),)

        options: dict[str, _Option] = {
            "to nearest": lambda kept: (),
            "CompensateRounding": lambda kept: compensate(kept, aim=False),
            "CompensateRounding(aim=True)": lambda kept: compensate(kept, aim=True),
        }
        if few:  # of 8 bits, a step is too small to matter
            options["LearnRounding"] = lambda kept: (
                LearnRounding(self._learned, _SAMPLES, bits=_EIGHT - 1, reference=kept.aim),
            )
        return options

    def _corrections(self) -> Mapping[str, _Option]:
        def match(kept: _Attempt, gain: str) -> tuple[Pass, ...]:
            return (MatchMoments(self._learned, _SAMPLES, gain, kept.aim),)

        return {
            "none": lambda kept: (),
            "CorrectBias(full=True)": lambda kept: (
                CorrectBias(self._learned, _SAMPLES, full=True, reference=kept.aim),
            ),
            "MatchMoments": lambda kept: match(kept, "least-squares"),
            "MatchMoments(gain='variance')": lambda kept: match(kept, "variance"),
        }

    # --- attempts -------------------------------------------------------------------------------

    def _choose(
        self,
        question: str,
        kept: _Attempt,
        options: Mapping[str, _Option],
        tidy: GraphModule,
        *,
        final: bool = False,
    ) -> _Attempt:
        """Try all options behind what was kept; `final` if no correction of means follows."""
        start, attempts = time.perf_counter(), {}
        for name, option in options.items():
            quiet, passes = self._quiet(), option(kept)
            if not passes and not final:
                attempts[name] = replace(kept, reports=())
                continue
            made = Pipeline(passes, _ROUNDED).run(kept.made, quiet) if passes else kept.made
            attempts[name] = self._attempt(kept.aim, made, quiet, tidy, correct=not final)
        return self._keep(question, attempts, start)

    def _attempt(
        self,
        aim: GraphModule,
        made: GraphModule,
        quiet: PassContext,
        tidy: GraphModule,
        *,
        correct: bool = True,
    ) -> _Attempt:
        judged = made
        if correct:
            ending = MatchMoments(self._learned, _SAMPLES, reference=aim)
            judged = Pipeline((ending,), _ROUNDED).run(made, self._quiet())
        error = output_error(judged, self._judged, tidy)
        return _Attempt(aim, made, tuple(quiet.reports), error)

    def _keep(self, question: str, attempts: Mapping[str, _Attempt], start: float) -> _Attempt:
        """The attempt of the least error, the first of equals; its reports go out, and why."""
        best = min(attempts, key=lambda name: attempts[name].error)
        found = ", ".join(f"{name} {decibels(a.error):.2f} dB" for name, a in attempts.items())
        summary = f"{best}, of {found}"
        seconds = time.perf_counter() - start
        changed = bool(attempts[best].reports)
        self._ctx.reports.append(PassReport(question, "", seconds, changed, (), (), summary))
        for report in attempts[best].reports:
            self._ctx.reports.append(report)
            for remark in report.warnings:
                _log.warning("%s", remark)
        return attempts[best]

    def _quiet(self) -> PassContext:
        context = self._ctx
        return _Quiet(
            context.check, context.progress, thorough=context.thorough, _steps=context._steps
        )


_ROUNDED = frozenset({CORE_FORM, FAKE_QUANTIZED})


def _has_few_bits(node: Node) -> bool:
    about = info(node)
    rounds = about.integer and about.config is not None and float_layer(node) is not None
    return rounds and about.config is not None and about.config.weight.bits < _EIGHT


def _pieces(batch: list[Tensor]) -> Iterable[tuple[Tensor, ...]]:
    """A batch in smaller ones, where all its tensors have as many samples."""
    if len({len(t) if t.dim() else 0 for t in batch}) > 1:
        return [tuple(batch)]
    return zip(*(t.split(_CHUNK) if t.dim() else [t] for t in batch), strict=True)

"""Ready-made pipelines: quantize a model, prune a model."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from operator import length_hint
from typing import Literal

from torch.fx import GraphModule

from qpc.analysis.channel_means import ChannelMeans
from qpc.base import Pass, PassContext
from qpc.batches import Batch, batch_length, checked_batches
from qpc.calls import qpc_ops
from qpc.effort import EFFORTS, best_quantization, corrections, storing, tidying
from qpc.errors import ConfigError, PassError
from qpc.facts import CALIBRATED, CORE_FORM, FAKE_QUANTIZED, OBSERVED, require_graph
from qpc.passes import (
    Calibrate,
    ConvertToInteger,
    CorrectBias,
    CreateMasks,
    EndTraining,
    FakeQuantize,
    FoldBatchNorm,
    FoldWeights,
    FollowRanges,
    FreezeGrids,
    ImportQuantized,
    InsertObservers,
    LearnGrids,
    MergeClamps,
    MergeTables,
    PropagateMasks,
    RemoveChannels,
    RemoveIdentities,
    RoundBiases,
    TakeCalibration,
)
from qpc.pipeline import Pipeline
from qpc.pruning.allocation import Allocation
from qpc.pruning.criteria import Judge
from qpc.quant.config import QuantConfig
from qpc.settings import require_choice, require_kind

_SAMPLES = CorrectBias([]).samples
_ALL_SCALES = LearnGrids()
_WHAT_MOVES = "qpc.passes.LearnGrids(...), FollowRanges(...), a tuple of them, or None"
_BATCH_NORM = ("folded", "simulated")
BatchNormMode = Literal["folded", "simulated"]
"""What becomes of batch norms before training with rounded values."""


def prepare(config: QuantConfig | None = None, *, batch_norm: BatchNormMode = "folded") -> Pipeline:
    """The passes before calibration: tidy the graph up, and insert observers.

    What parameters alone decide is computed, batch norms are folded, identities removed,
    convolutions over one axis given a height of 1.
    Linear layers with a mode that needs no calibration get their integer weights.

    batch_norm: "simulated" leaves batch norms that could be folded to be trained, see
    `qpc.prepare_qat`.
    """
    later, known = batch_norm == "simulated", config or QuantConfig()
    observers = InsertObservers(known, fold_later=later)
    return Pipeline((*tidying(fold_later=later), *storing(known), observers))


def post_training_quantization(
    batches: Iterable[Batch],
    config: QuantConfig | None = None,
    *,
    effort: str = "default",
    calibration: GraphModule | None = None,
) -> Pipeline:
    """From a traced model to a fake-quantized one.

    `prepare`, calibrate on `batches` or take what `calibration` has, fix the grids, correct biases
    on the first of the batches; where weights have fewer than 8 bits, fit their scales there and
    correct what rounding does to means and spread of channels. Not with the effort "fast". The
    batches are read once, so a generator will do; the pipeline then runs once.
    """
    require_choice("effort", effort, ("fast", "default"))
    kept: list[Batch] = []
    checked_batches(batches)
    means = ChannelMeans(_SAMPLES) if effort == "default" else None
    endings = () if means is None else corrections(kept, config or QuantConfig(), means)
    calibrate: Pass = Calibrate(_Keeping(batches, kept), means)
    if calibration is not None:
        calibrate, endings = TakeCalibration(calibration), ()
        if effort == "default":
            endings = corrections(_some(batches), config or QuantConfig())
    passes = (calibrate, FakeQuantize(), *endings)
    return prepare(config) + Pipeline(passes, frozenset({CORE_FORM, OBSERVED}))


def _some(batches: Iterable[Batch]) -> list[Batch]:
    """The first batches, as many as corrections read. Raises ConfigError if there are none."""
    kept: list[Batch] = []
    for batch in batches:
        kept.append(batch)
        if sum(map(batch_length, kept)) >= _SAMPLES:
            break
    if not kept:
        raise ConfigError(
            "a calibration holds no samples, on which the default effort corrects biases",
            fix=f'pass some batches too ({_SAMPLES} samples are read), or effort="fast"',
        )
    return kept


@dataclass(frozen=True)
class _Keeping:
    """Batches that are handed on as they come, of which the first ones are kept."""

    batches: Iterable[Batch]
    kept: list[Batch]

    def __length_hint__(self) -> int:
        return length_hint(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        self.kept.clear()
        for batch in self.batches:
            if sum(map(batch_length, self.kept)) < _SAMPLES:
                self.kept.append(batch)
            yield batch


def to_integer() -> Pipeline:
    """From a fake-quantized graph to integer operators."""
    return Pipeline(
        (ConvertToInteger(), MergeClamps(), MergeTables()), frozenset({CORE_FORM, FAKE_QUANTIZED})
    )


def calibrate(
    gm: GraphModule,
    batches: Iterable[Batch],
    config: QuantConfig | None = None,
    ctx: PassContext | None = None,
) -> GraphModule:
    """Return `gm`, a traced float graph, prepared for quantization, with observers that saw data.

    batches: any iterable of batches as `qpc.passes.Calibrate` takes them.
    config: what is observed how; the default observes what the default configuration rounds, with
    histograms.
    ctx: collects the reports.

    Keep the result with `qpc.save_graph`; put those of several processes together with
    `qpc.merge_calibration`; quantize with it: `qpc.quantize(gm, calibration=...)`.
    """
    require_graph(gm, "calibrate")
    passes = Pipeline((Calibrate(checked_batches(batches)),), frozenset({CORE_FORM, OBSERVED}))
    return (prepare(config) + passes).run(gm, ctx)


def quantize(
    gm: GraphModule,
    batches: Iterable[Batch] = (),
    config: QuantConfig | None = None,
    ctx: PassContext | None = None,
    *,
    effort: str = "default",
    calibration: GraphModule | None = None,
) -> GraphModule:
    """Return `gm`, a traced float graph, as an integer graph, calibrated on `batches`.

    batches: any iterable of batches as `qpc.passes.Calibrate` takes them. None are needed, and none
    are read, if `config` leaves nothing to calibrate: if all layers are weight-only or dynamic.
    ctx: collects the reports: which layers are quantized, and why others are not.
    effort: "fast" rounds to nearest. "default" corrects biases and, where weights have fewer than
    8 bits, fits their scales to the outputs. "best" tries what keeps accuracy, keeps what helps on
    samples held out, and reports what was tried; it takes minutes, and the batches are kept in
    memory (see `qpc.effort.best_quantization`).
    calibration: what `qpc.calibrate` returned for `gm`, with any configuration that observes what
    `config` rounds; ranges come from it, and of `batches` only those that the default effort
    corrects biases on are read.

    Raises PassError if no layer could be quantized; CalibrationError if `calibration` is of another
    model or lacks what `config` needs; ConfigError if there are no batches for the default effort,
    and for a calibration with the effort "best", which calibrates many times. Layers that stay in
    float although `config` would quantize them are logged as a warning, with or without `ctx`.
    """
    require_choice("effort", effort, EFFORTS)
    if calibration is not None and effort == "best":
        raise ConfigError(
            'the effort "best" calibrates many times, on graphs that it changes',
            fix='leave calibration out, or use effort="default"',
        )
    if effort == "best":
        fake = best_quantization(gm, batches, config, ctx)
    else:
        pipeline = post_training_quantization(
            batches, config, effort=effort, calibration=calibration
        )
        fake = pipeline.run(gm, ctx)
    return to_integer().run(fake, ctx)


def import_quantized(
    gm: GraphModule,
    batches: Iterable[Batch] | None = None,
    config: QuantConfig | None = None,
    ctx: PassContext | None = None,
) -> GraphModule:
    """Return a traced graph that another tool has quantized as an integer graph.

    gm: what `qpc.trace` made of a model that torchao's `convert_pt2e` returned. Its grids and the
    integers of its weights are taken over, none is chosen anew.
    batches: calibrate values that an integer operator needs and that the other tool has not
    rounded, such as one operand of a sum. None leaves such operators in float.
    config: for these values, and for what is to stay in float all the same.
    ctx: collects the reports: which layers are integer, and why others are not.

    Raises PassError if there is nothing to import, if a value is rounded to two grids, and if
    quantize and dequantize operators do not stand in pairs; and as `qpc.convert` does.
    """
    require_graph(gm, "import_quantized")
    grids = ImportQuantized(calibrated=batches is not None, config=config or QuantConfig())
    return with_given_grids(gm, (RemoveIdentities(), grids), batches, ctx)


def with_given_grids(
    gm: GraphModule,
    passes: tuple[Pass, ...],
    batches: Iterable[Batch] | None,
    ctx: PassContext | None,
) -> GraphModule:
    """Return a float graph as integers, where `passes` insert observers whose grids are fixed.

    batches: for observers whose grids are not; None if there are none of these.
    """
    if batches is not None:
        passes = (*passes, Calibrate(checked_batches(batches)))
    observed = Pipeline(passes).run(gm, ctx)
    facts = frozenset({CORE_FORM, OBSERVED, CALIBRATED})
    return (Pipeline((FakeQuantize(),), facts) + to_integer()).run(observed, ctx)


def prepare_qat(
    gm: GraphModule,
    batches: Iterable[Batch],
    config: QuantConfig | None = None,
    *,
    learn: LearnGrids | FollowRanges | tuple[LearnGrids | FollowRanges, ...] | None = _ALL_SCALES,
    batch_norm: BatchNormMode = "folded",
    ctx: PassContext | None = None,
) -> GraphModule:
    """Return `gm`, a traced float graph, with its values rounded to grids, ready to be trained.

    Batch norms are folded, observers calibrated on `batches`, and every value that is to be integer
    is rounded in float to the grid that conversion will use, so that training sees the errors of
    the integer graph. Train the result in a loop of your own, between `qpc.set_training(gm)` and
    `qpc.set_training(gm, mode=False)`; then `qpc.convert(gm)` makes integers of it.

    batches: any iterable of batches as `qpc.passes.Calibrate` takes them.
    learn: which grids training moves: `LearnGrids` by gradients, all scales by default (Esser et
    al. 2020, arXiv:1902.08153); `FollowRanges` by moving averages of the values (Jacob et al. 2018,
    arXiv:1712.05877); a tuple of both, each for some grids; None keeps those of the calibration.
    batch_norm: "folded" folds batch norms into their layers now, as parameters without statistics.
    "simulated" lets them train: in training they normalise by the batch and move their statistics,
    while the weights are rounded as they will be after folding, which `qpc.convert` does (Jacob et
    al. 2018, arXiv:1712.05877, section 3.2). `qpc.freeze_batch_norm` ends it in a later phase.
    ctx: collects the reports: which layers are quantized, and why others are not.

    Raises PassError if no layer could be quantized.
    """
    checked_batches(batches)
    require_trainable(config)
    moving = learn if isinstance(learn, tuple) else (learn,) if learn is not None else ()
    for each in moving:
        require_kind("learn", each, (LearnGrids, FollowRanges), _WHAT_MOVES)
    require_choice("batch_norm", batch_norm, _BATCH_NORM)
    passes = (Calibrate(batches), *rounding_to_train(*moving))
    before = prepare(config, batch_norm=batch_norm)
    pipeline = before + Pipeline(passes, frozenset({CORE_FORM, OBSERVED}))
    return pipeline.run(gm, ctx)


def rounding_to_train(*moving: Pass) -> tuple[Pass, ...]:
    """What makes a graph that trains of a calibrated one; `moving`: what lets grids move."""
    return FakeQuantize(), *moving, RoundBiases()


def require_trainable(config: QuantConfig | None) -> None:
    """Raise ConfigError if a configuration has layers with a mode in which none can be trained."""
    if found := sorted((config or QuantConfig()).modes - {"static"}):
        raise ConfigError(
            f"layers of the mode {found[0]!r} cannot be trained: their weights are integers",
            fix='keep them in float while training, Override(..., use="float"), and run'
            " qpc.passes.QuantizeWeights on what qpc.convert returns",
        )


def convert(gm: GraphModule, ctx: PassContext | None = None) -> GraphModule:
    """Return a fake-quantized graph, trained or not, as an integer graph.

    Its outputs are those of `gm` in inference, up to a step of a grid here and there. A graph that
    is in training mode is converted as it is in inference. Batch norms that were simulated are
    folded.

    Raises PassError if no value of the graph is rounded to a grid, or training has left a grid that
    is no number; OverflowProofError if it has moved weights out of what their sums allow.
    """
    require_graph(gm, "convert")
    if not gm.graph.find_nodes(op="call_function", target=qpc_ops.fake_quantize.default):
        raise PassError(
            "there is nothing to convert: no value of this graph is rounded to a grid",
            fix="gm = qpc.prepare_qat(gm, batches) before training, or qpc.quantize(gm, batches)",
        )
    passes = (EndTraining(), FoldBatchNorm(), FreezeGrids())
    freeze = Pipeline(passes, frozenset({CORE_FORM, FAKE_QUANTIZED}))
    return (freeze + to_integer()).run(gm, ctx)


def prune(
    gm: GraphModule,
    criterion: Judge,
    allocation: Allocation,
    *,
    heads: str | tuple[str, ...] = (),
    ctx: PassContext | None = None,
) -> GraphModule:
    """Return `gm`, a core-form graph, without the channels that are worth least.

    criterion: what channels are worth, such as `qpc.pruning.magnitude.L1()`, or any object with a
    method `scores` as `qpc.pruning.criteria.Judge` has it.
    allocation: how many go, such as `qpc.pruning.allocation.Global(0.5, of="macs")`.
    heads: shell patterns of modules in which attention is pruned by whole heads.

    Weights that are computed from parameters, as by weight normalisation, become parameters first.

    Raises PassError if no channel may go. What the allocation asked for and could not be had is
    logged as a warning; `ctx` collects the reports.
    """
    masks = CreateMasks(criterion, allocation, heads)
    passes = (FoldWeights(), masks, PropagateMasks(heads), RemoveChannels(heads))
    return Pipeline(passes).run(gm, ctx)

"""From float graphs to graphs rounded to grids, calibrated by one or more processes."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Sequence
from itertools import islice
from operator import length_hint
from pathlib import Path
from typing import Literal

from torch.fx import GraphModule

from qpc.analysis.channel_means import ChannelMeans
from qpc.analysis.merge import merge_calibration
from qpc.base import Pass
from qpc.batches import Batch, batch_length, checked_batches
from qpc.calls import qpc_ops
from qpc.compression.step import StepContext
from qpc.effort import best_quantization, corrections
from qpc.errors import CalibrationError, PassError
from qpc.facts import CALIBRATED, CORE_FORM, OBSERVED
from qpc.passes import Calibrate, CorrectBias, FakeQuantize
from qpc.pipeline import Pipeline
from qpc.quant.config import QuantConfig
from qpc.recipes import (
    BatchNormMode,
    post_training_quantization,
    prepare,
    require_trainable,
    rounding_to_train,
)
from qpc.storage import load_graph, save_graph

Effort = Literal["fast", "default", "best"]

_OBSERVED = frozenset({CORE_FORM, OBSERVED})
_READY = _OBSERVED | {CALIBRATED}


def is_rounded(gm: GraphModule) -> bool:
    """Whether values of a graph are rounded to grids, in float."""
    found = gm.graph.find_nodes(op="call_function", target=qpc_ops.fake_quantize.default)
    return bool(found)


def rounded(
    gm: GraphModule, config: QuantConfig, at: StepContext, *, effort: Effort = "default"
) -> GraphModule:
    """The graph rounded to grids, and corrected, as `qpc.quantize` does it with this effort.

    With "best" every process searches by itself, on all batches: they find the same.
    """
    if is_rounded(gm):
        raise PassError(
            f"the step {at.place.name!r} would quantize a graph that is rounded to grids already",
            fix="quantize once, or in `finish`, from which rounds do not go on",
        )
    batches = at.require_batches()
    if effort == "best":
        return best_quantization(gm, batches, config, at.passes)
    if at.world.size == 1:
        return post_training_quantization(batches, config, effort=effort).run(gm, at.passes)
    observed = prepare(config).run(gm, at.passes)
    calibrated = _merged(observed, checked_batches(batches), at)
    endings = _corrections(observed, config, at) if effort == "default" else ()
    return Pipeline((FakeQuantize(), *endings), _READY).run(calibrated, at.passes)


def _corrections(observed: GraphModule, config: QuantConfig, at: StepContext) -> tuple[Pass, ...]:
    """What corrects the graph, with the means that one process takes down while it calibrates."""
    means = ChannelMeans(CorrectBias([]).samples)
    first = _first_samples(at.require_batches(), means.samples)
    Pipeline((Calibrate(first, means),), _OBSERVED).run(observed)
    return corrections(first, config, means)


def prepared_for_training(
    gm: GraphModule,
    config: QuantConfig,
    moving: Sequence[Pass],
    at: StepContext,
    *,
    batch_norm: BatchNormMode = "folded",
) -> GraphModule:
    """The same as `qpc.prepare_qat` makes it; a graph that is rounded already stays.

    moving: the passes that let training move grids.
    """
    if is_rounded(gm):
        return gm
    require_trainable(config)
    passes = rounding_to_train(*moving)
    calibrated = _calibrated(gm, config, at, batch_norm)
    return Pipeline(passes, _READY).run(calibrated, at.passes)


def _calibrated(
    gm: GraphModule, config: QuantConfig, at: StepContext, batch_norm: BatchNormMode = "folded"
) -> GraphModule:
    observed = prepare(config, batch_norm=batch_norm).run(gm, at.passes)
    batches = checked_batches(at.require_batches())
    if at.world.size == 1:
        return Pipeline((Calibrate(batches),), _OBSERVED).run(observed, at.passes)
    return _merged(observed, batches, at)


def _merged(observed: GraphModule, batches: Iterable[Batch], at: StepContext) -> GraphModule:
    """Every process calibrates on batches in a row, and all merge what all have seen.

    That equals one run over all batches bit for bit. The parts are saved graphs in a folder that
    the first process makes.
    """
    count = length_hint(batches) or sum(1 for _ in at.require_batches())
    if count == 0:
        raise CalibrationError(
            "there are no calibration batches",
            fix="pass an iterable of batches; a generator that was used up is empty",
        )
    world, own = at.world, at.world.shard(count)
    holder = at.checkpoints or Path(tempfile.gettempdir())
    folder = Path(world.from_first(lambda: tempfile.mkdtemp(prefix="calibration-", dir=holder)))

    def calibrate() -> str:
        if own:
            mine = islice(batches, own.start, own.stop)
            part = Pipeline((Calibrate(mine),), _OBSERVED).run(observed, at.passes)
            save_graph(part, folder / str(world.rank))
        return str(len(own))

    world.together(calibrate)
    sizes = world.gather(str(len(own)))
    parts = [load_graph(folder / str(rank)) for rank, size in enumerate(sizes) if int(size)]
    merged = merge_calibration(*parts)
    world.together(lambda: "")  # all have read
    if world.first:
        shutil.rmtree(folder, ignore_errors=True)
    return merged


def _first_samples(batches: Iterable[Batch], samples: int) -> list[Batch]:
    kept: list[Batch] = []
    for batch in batches:
        kept.append(batch)
        if sum(map(batch_length, kept)) >= samples:
            break
    return kept

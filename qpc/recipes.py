"""Ready-made pipelines: quantize a model, compile a graph."""

from __future__ import annotations

from collections.abc import Iterable

from torch.fx import GraphModule

from qpc.base import PassContext
from qpc.facts import CORE_FORM, FAKE_QUANTIZED, OBSERVED
from qpc.passes import (
    Calibrate,
    ConvertToInteger,
    FakeQuantize,
    FoldBatchNorm,
    InsertObservers,
    MergeClamps,
    RemoveIdentities,
)
from qpc.passes.calibrate import Batch
from qpc.pipeline import Pipeline
from qpc.quant.config import QuantConfig


def prepare(config: QuantConfig | None = None) -> Pipeline:
    """The passes before calibration: fold batch norms, remove identities, insert observers."""
    observers = InsertObservers(config or QuantConfig())
    return Pipeline((FoldBatchNorm(), RemoveIdentities(), observers))


def post_training_quantization(
    batches: Iterable[Batch], config: QuantConfig | None = None
) -> Pipeline:
    """From a traced model to a fake-quantized one: `prepare`, calibrate, fix the grids."""
    return prepare(config) + Pipeline(
        (Calibrate(batches), FakeQuantize()), frozenset({CORE_FORM, OBSERVED})
    )


def to_integer() -> Pipeline:
    """From a fake-quantized graph to integer operators."""
    return Pipeline((ConvertToInteger(), MergeClamps()), frozenset({CORE_FORM, FAKE_QUANTIZED}))


def quantize(
    gm: GraphModule,
    batches: Iterable[Batch],
    config: QuantConfig | None = None,
    ctx: PassContext | None = None,
) -> GraphModule:
    """Return `gm`, a traced float graph, as an integer graph, calibrated on `batches`.

    batches: any iterable of batches as `qpc.passes.Calibrate` takes them.
    ctx: collects the reports: which layers are quantized, and why others are not.
    """
    fake = post_training_quantization(batches, config).run(gm, ctx)
    return to_integer().run(fake, ctx)

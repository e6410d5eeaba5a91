"""`qpc quantize`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qpc.given.options import DataOptions, FolderOption, ModelOptions
from qpc.terminal.answer import Answer
from qpc.terminal.reporter import Reporter

if TYPE_CHECKING:
    from torch.fx import GraphModule

    from qpc.given.opened import Samples
    from qpc.quant.config import QuantConfig

EXAMPLE = (
    "qpc quantize torchvision.models:mobilenet_v2 --weights mobilenet_v2.pth --input 1x3x224x224"
    " --data photos --out mobilenet"
)
_SAMPLES, _COMPARED = 128, 16
"""Samples to calibrate with, if nothing else is said, and to compare with float."""
_SMALL = 4  # samples at a time, as graphs of integers are slow in PyTorch
_SUMMED_UP = ("convert-to-integer", "quantize-weights")
"""Passes that say how many layers were quantized."""


class Effort(StrEnum):
    """How much is tried, see `qpc.quantize`."""

    FAST = "fast"
    DEFAULT = "default"
    BEST = "best"


class Mode(StrEnum):
    """What is in integers, see `qpc.quant.config.LayerConfig`."""

    STATIC = "static"
    DYNAMIC = "dynamic"
    WEIGHT_ONLY = "weight-only"


def command(
    reporter: Reporter,
    model: ModelOptions,
    data: DataOptions,
    out: FolderOption,
    weight_bits: Annotated[int, typer.Option(min=2, max=8, help="Bits of weights.")] = 8,
    activation_bits: Annotated[int, typer.Option(min=2, max=8, help="Bits of values.")] = 8,
    mode: Annotated[
        Mode, typer.Option(help="Values on fixed grids, on grids of their own, or in float.")
    ] = Mode.STATIC,
    target: Annotated[
        str | None,
        typer.Option(help="Round weights as is fastest there: a target, such as x86-64-v3."),
    ] = None,
    effort: Annotated[
        Effort, typer.Option(help="How much is tried for accuracy.")
    ] = Effort.DEFAULT,
    float_: Annotated[
        list[str] | None,
        typer.Option("--float", help="Keep the modules of this pattern in float."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="YAML of a QuantConfig, in place of the options above.")
    ] = None,
) -> Answer:
    """Quantize a model to integers, calibrated on data, and keep graph, settings and result."""
    with reporter.phase("importing"):
        from qpc.given.folder import FLOAT, GRAPH, ModelFolder
        from qpc.given.opened import open_model
        from qpc.given.watched import Calibration, Watched
        from qpc.recipes import quantize
        from qpc.storage import save_graph
        from qpc.terminal.hints import quoted
    folder = ModelFolder.begin(out)
    settings = config_of(config, mode, weight_bits, activation_bits, float_ or (), target)
    opened = open_model(reporter, model, data)
    gm = opened.model.require_float("quantize")
    static = "static" in settings.modes
    samples = opened.require_data("quantize") if static or opened.data is not None else None
    batches: Any = ()
    if samples is not None:
        most = data.samples or _SAMPLES
        batches = Calibration(samples, reporter, "calibrating", most=most)
    ctx = Watched(reporter=reporter)
    with reporter.phase("quantizing"):
        made = quantize(gm, batches, settings, ctx, effort=effort.value)
    result = _result(reporter, gm, made, samples, ctx)
    with reporter.phase("saving"):
        save_graph(made, folder.path / GRAPH)
        save_graph(gm, folder.path / FLOAT)
        folder.write_texts({"command": "quantize", **reporter.settings}, result)
    text = (
        f"{result['summary']}.\n"
        f"{result['bytes_before']:,} bytes became {result['bytes_after']:,}"
        f"{_agreement(result)}.\nEverything is in {str(out)!r}."
    )
    then: tuple[str, ...] = (f"qpc compile {quoted(out)}",)
    if data.data:
        then += (f"qpc explain {quoted(out)} --data {quoted(data.data)}",)
    return Answer(result, (text,), then=then)


def config_of(
    file: Path | None,
    mode: Mode,
    weights: int,
    activations: int,
    kept: list[str] | tuple[()],
    target: str | None,
) -> QuantConfig:
    """The configuration that options stand for: that of a file, or else of all the others.

    kept: patterns of modules that stay in float. target: as `QuantConfig.for_target` takes it.
    Raises ConfigError for a file beside others, and for what is wrong in it.
    """
    from qpc.errors import ConfigError
    from qpc.quant.config import ActivationConfig, LayerConfig, Override, QuantConfig, WeightConfig

    if file is not None:
        given = (mode, weights, activations, tuple(kept), target)
        if given != (Mode.STATIC, 8, 8, (), None):
            raise ConfigError(
                "--config says it all: bits, mode, what is kept in float and pairs of weights",
                fix="leave the other options out, or write them into the file",
            )
        return QuantConfig.from_yaml(file)
    fastest = QuantConfig() if target is None else QuantConfig.for_target(target)
    # weights that floats multiply have no pairs
    pairs = "any" if mode is Mode.WEIGHT_ONLY else fastest.default.weight.pairs
    layer = LayerConfig(
        mode=mode.value,
        activation=ActivationConfig(bits=activations),
        weight=WeightConfig(bits=weights, pairs=pairs),
    )
    overrides = tuple(Override(pattern=pattern, use="float") for pattern in kept)
    return QuantConfig(default=layer, overrides=overrides)


def _result(
    reporter: Reporter, gm: GraphModule, made: GraphModule, samples: Samples | None, ctx: Any
) -> dict[str, Any]:
    from qpc.analysis.compare import compare
    from qpc.explanation.inspection import inspect_graph, tensor_bytes
    from qpc.terminal.plain import plain

    with reporter.phase("looking at the result"):
        found = inspect_graph(made)
    summaries = [report.summary for report in ctx.reports if report.name in _SUMMED_UP]
    outputs: object = None
    if samples is not None:
        parts = samples.batches(_SMALL, _COMPARED)
        total = samples.number_of_batches(_SMALL, _COMPARED)
        batches = (part.inputs for part in reporter.each(parts, "comparing with float", total))
        outputs = [plain(row) for row in compare(gm, made, batches).outputs]
    return {
        "summary": next((s for s in reversed(summaries) if s), "quantized"),
        "layers": [plain(layer) for layer in found.layers],
        "declined": [{"node": r.node, "why": r.text} for r in ctx.declined],
        "warnings": [str(w) for report in ctx.reports for w in report.warnings],
        "bytes_before": tensor_bytes(gm),
        "bytes_after": tensor_bytes(made),
        "macs": found.macs,
        "outputs": outputs,
    }


def _agreement(result: dict[str, Any]) -> str:
    outputs = result["outputs"]
    if not outputs:
        return ""
    found = [row["sqnr_db"] for row in outputs]
    worst = min((value for value in found if value is not None), default=None)
    if worst is None:
        return ", and the outputs are those of float"
    return f", and the outputs agree with float to {worst:.1f} dB on {_COMPARED} samples at most"

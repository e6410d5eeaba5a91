"""`qpc prune`."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from qpc.given.options import DataOptions, FolderOption, ModelOptions
from qpc.terminal.answer import Answer
from qpc.terminal.reporter import Reporter

if TYPE_CHECKING:
    from qpc.given.opened import Samples
    from qpc.pruning.criteria import Judge

EXAMPLE = "qpc prune net.py:model --input 1x3x224x224 --amount 0.3 --of macs --out smaller"
_SAMPLES = 256
"""Samples for criteria that look at data and for statistics, if nothing else is said."""


class Of(StrEnum):
    """What the amount is a share of."""

    MACS = "macs"
    PARAMETERS = "parameters"
    CHANNELS = "channels"


def command(
    reporter: Reporter,
    model: ModelOptions,
    data: DataOptions,
    out: FolderOption,
    amount: Annotated[float, typer.Option(help="The share that goes, from 0 to 1.")] = 0.3,
    of: Annotated[Of, typer.Option(help="What it is a share of.")] = Of.MACS,
    criterion: Annotated[
        str, typer.Option(help="What channels are worth: l1, taylor, fpgm, apoz, ...")
    ] = "l1",
    allocation: Annotated[
        str, typer.Option(help="How many go where: global, uniform or isomorphic.")
    ] = "global",
    heads: Annotated[
        list[str] | None,
        typer.Option(help="Modules of this pattern lose whole heads of attention."),
    ] = None,
) -> Answer:
    """Remove the channels that are worth least, and keep the smaller graph."""
    with reporter.phase("importing"):
        from qpc.given.folder import FLOAT, GRAPH, ModelFolder
        from qpc.given.opened import open_model
        from qpc.given.watched import Calibration, Watched
        from qpc.passes import ReestimateBatchNorm
        from qpc.pipeline import Pipeline
        from qpc.pruning.allocation import ALLOCATIONS, Allocation
        from qpc.pruning.report import pruning_report
        from qpc.recipes import prune
        from qpc.storage import save_graph
        from qpc.terminal.hints import quoted
        from qpc.yaml_form import named_thing
    folder = ModelFolder.begin(out)
    share = {"kind": allocation, "amount": amount, "of": of.value}
    chosen = cast(Allocation, named_thing(share, ALLOCATIONS, "--allocation"))
    opened = open_model(reporter, model, data)
    gm = opened.model.require_graph("prune")
    samples = None if opened.data is None else opened.require_data("prune")
    judge = _criterion(criterion, samples, reporter)
    patterns = tuple(heads or ())
    ctx = Watched(reporter=reporter)
    with reporter.phase("pruning"):
        smaller = prune(gm, judge, chosen, heads=patterns, ctx=ctx)
        if samples is not None:
            most = data.samples or _SAMPLES
            batches = Calibration(samples, reporter, "batch norms", most=most)
            smaller = Pipeline((ReestimateBatchNorm(batches),)).run(smaller, ctx)
        report = pruning_report(gm, smaller, heads=patterns)
    result = _result(report)
    with reporter.phase("saving"):
        save_graph(smaller, folder.path / GRAPH)
        save_graph(gm, folder.path / FLOAT)
        folder.write_texts({"command": "prune", **reporter.settings}, result)
    calibration = quoted(data.data or "PHOTOS")
    then = f"qpc quantize {quoted(out)} --data {calibration} --out {quoted(out)}-int8"
    return Answer(result, (f"{report}\nEverything is in {str(out)!r}.",), then=(then,))


def _criterion(name: str, samples: Samples | None, reporter: Reporter) -> Judge:
    from torch.nn.functional import cross_entropy

    from qpc.errors import ConfigError
    from qpc.pruning.criteria import CRITERIA, Judge
    from qpc.yaml_form import named_thing  # knows all criteria of QPC

    found = CRITERIA.find(name)
    needs = getattr(found, "__dataclass_fields__", {})
    supply: dict[str, Any] = {}
    if "batches" in needs:
        if samples is None:
            raise ConfigError(f"the criterion {name!r} looks at data", fix="--data FOLDER or FILE")
        labelled = "loss" in needs
        if labelled and not samples.data.labelled:
            raise ConfigError(
                f"the criterion {name!r} looks at the loss, and the data has no labels",
                fix="put images into one folder for each class, or labels into the file",
            )
        parts = reporter.each(samples.batches(most=_SAMPLES), "reading data")
        supply["batches"] = [(*p.inputs, p.labels) if labelled else p.inputs for p in parts]
        supply["loss"] = lambda output, batch: cross_entropy(output, batch[-1])
    return cast(Judge, named_thing(name, CRITERIA, "--criterion", supply))


def _result(report: Any) -> dict[str, Any]:
    from qpc.terminal.plain import plain

    return {
        "macs": [report.before.macs, report.after.macs],
        "parameters": [report.before.parameters, report.after.parameters],
        "channels": [report.before.channels, report.after.channels],
        "layers": plain(report.layers),
    }

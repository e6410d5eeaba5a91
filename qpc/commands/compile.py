"""`qpc compile`."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qpc.given.options import ModelOptions
from qpc.terminal.answer import Answer
from qpc.terminal.reporter import Reporter

if TYPE_CHECKING:
    from torch.fx import GraphModule

    from qpc.backends.tvm.runtime.model import CompiledModel
    from qpc.targets import Target

_NATIVE = "native"
EXAMPLE = "qpc compile mobilenet --batch 1,8 --threads 2"
_KERNELS_KEPT = "kernels that were compiled are kept for the next time"


class Form(StrEnum):
    """What comes of it: what `qpc.load` opens, what C programs link, or source of that."""

    MODEL = "model"
    LIBRARY = "library"
    C = "c"


class Constants(StrEnum):
    """Where constants of C source are."""

    ARRAYS = "arrays"
    BLOB = "blob"


def command(
    reporter: Reporter,
    model: ModelOptions,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Folder; inside of the model's own by default."),
    ] = None,
    target: Annotated[
        str,
        typer.Option(
            help="What `qpc targets` lists, or a YAML file; this CPU by default. Several with "
            "commas: one library with code for all, the best last."
        ),
    ] = _NATIVE,
    form: Annotated[
        Form | None,
        typer.Option(
            "--as",
            "--emit",
            help="A model for Python, or for C a library, which other targets are, or source.",
        ),
    ] = None,
    constants: Annotated[
        Constants, typer.Option(help="Of C source: arrays in it, or a blob that is assembled.")
    ] = Constants.ARRAYS,
    name: Annotated[str | None, typer.Option(help="What a library's symbols begin with.")] = None,
    vectors: Annotated[int, typer.Option(min=1, help="Test vectors of a library.")] = 2,
    batch: Annotated[str, typer.Option(help="Batch sizes that the model takes.")] = "1",
    threads: Annotated[int, typer.Option(min=1, help="Threads of a call.")] = 1,
    tune: Annotated[
        float, typer.Option(min=0, help="Seconds to measure which kernels are fastest.")
    ] = 0.0,
    cache: Annotated[
        bool, typer.Option("--cache/--no-cache", help="Keep kernels for the next time.")
    ] = True,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify/--no-verify", help="Compare with the integer graph, value by value."
        ),
    ] = True,
) -> Answer:
    """Compile a graph to machine code, for here or as a library for C programs, and verify it."""
    reporter.kept = _KERNELS_KEPT
    sizes = _sizes(batch)
    from qpc.targets import Target

    chosen = [Target.parse(each) for each in target.split(",")]
    library = form in (Form.LIBRARY, Form.C) or (form is None and target != _NATIVE)
    if library or len(chosen) > 1:
        written = "c" if form is Form.C else "objects"
        about = {"threads": threads, "vectors": vectors, "name": name, "form": written}
        about["weights"] = constants.value
        return _library(reporter, model, chosen, out, sizes, about, tune=tune)
    settings = {"batch_sizes": sizes, "threads": threads, "cache": cache, "tune": tune or False}
    return _model(reporter, model, chosen[0], out, settings, verify=verify)


def _model(
    reporter: Reporter,
    model: ModelOptions,
    target: Target,
    out: Path | None,
    settings: dict[str, Any],
    *,
    verify: bool,
) -> Answer:
    """A model for Python, verified."""
    from qpc.backends.tvm.compat import check_versions

    check_versions()
    with reporter.phase("importing"):
        from qpc.backends.tvm.compat import require_tvm

        require_tvm()  # first, as this import must not be interrupted
        from qpc.compiler import compile as compiled_of
        from qpc.given.folder import COMPILED, ModelFolder
        from qpc.given.opened import open_model
        from qpc.terminal.hints import quoted
    opened = open_model(reporter, model).model
    gm = opened.require_graph("compile")
    goal = out or _goal(opened.folder, COMPILED, ModelFolder)
    with reporter.phase("compiling"):
        compiled = compiled_of(gm, target, **settings)
    checked = _verified(reporter, gm, compiled) if verify else {}
    with reporter.phase("saving"):
        compiled.save(goal)
    data = _data(compiled, goal, checked)
    text = (
        f"compiled for {compiled.target.name}: {len(compiled.report.kernels)} integer kernels, "
        f"{len(compiled.report.others)} other operators, {data['bytes']:,} bytes in {str(goal)!r}"
    )
    if checked:
        text += f"\n{checked['text']}"
    elif verify:
        text += f"\nit is not verified: {compiled.target.runs_here()}"
    shown = model.model if opened.folder and goal.parent == opened.folder else str(goal)
    return Answer(data, (text,), then=(f"qpc bench {quoted(shown)}",))


def _library(
    reporter: Reporter,
    model: ModelOptions,
    targets: Sequence[Target],
    out: Path | None,
    sizes: tuple[int, ...],
    about: dict[str, Any],
    *,
    tune: float,
) -> Answer:
    """A library for C programs, with header and test vectors. about: more for `export_library`."""
    from qpc.errors import ConfigError

    if out is None:
        raise ConfigError("where is the library to be kept?", fix="--out FOLDER")
    if len(sizes) > 1:
        raise ConfigError("a library has one batch size", fix="--batch 1")
    if tune:
        raise ConfigError(
            "kernels are measured on this machine, which says nothing about others",
            fix="leave --tune out, or compile for `native` without --as",
        )
    with reporter.phase("importing"):
        from qpc.backends.tvm.compat import require_tvm

        require_tvm()
        from qpc.deployment import export_library, name_for
        from qpc.explanation.inspection import stage_of
        from qpc.given.opened import open_model
        from qpc.recipes import to_integer
        from qpc.terminal.hints import quoted
    gm = open_model(reporter, model).model.require_graph("compile")
    if stage_of(gm) == "rounded":
        gm = to_integer().run(gm)
    called = about.pop("name") or name_for(model.model.rpartition(":")[2])
    names = ", ".join(target.name for target in targets)
    with reporter.phase(f"compiling for {names}"):
        made = export_library(gm, targets, out, name=called, batch=sizes[0], **about)
    data = {"path": str(out), "name": made.name, "target": names, "report": made.report}
    return Answer(data, (made.report,), then=(f"qpc verify {quoted(out)}",))


def _sizes(text: str) -> tuple[int, ...]:
    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or min(found) < 1 or len(set(found)) < len(found):
        raise typer.BadParameter(
            f"must be different numbers from 1, such as 1,8, got {text!r}", param_hint="--batch"
        )
    return found


def _goal(folder: Path | None, name: str, kinds: Any) -> Path:
    from qpc.errors import ConfigError

    if folder is not None and kinds.at(folder) is not None:
        return folder / name
    if folder is not None:
        return folder.with_name(f"{folder.resolve().name}-{name}")
    raise ConfigError("where is the compiled model to be kept?", fix="--out FOLDER")


def _verified(reporter: Reporter, gm: GraphModule, compiled: CompiledModel) -> dict[str, Any]:
    """How many values differ from those of the integer graph; raises VerificationError if any do.

    Values that depend on float operators may differ by a rounding, and are told apart.
    """
    from qpc.errors import VerificationError
    from qpc.explanation.verification import verified

    if compiled.target.runs_here() is not None:
        return {}
    with reporter.phase("verifying"):
        found = verified(gm, compiled, told=reporter.told)
    if not found.well:
        raise VerificationError(
            f"the compiled model is another one than its graph, which is a bug in QPC: {found}",
            fix="report it, with the output of `qpc doctor`",
        )
    return {
        "values": found.values,
        "differing": found.differing,
        "rounded": found.rounded,
        "greatest_difference": found.greatest,
        "text": str(found),
    }


def _data(compiled: CompiledModel, goal: Path, checked: dict[str, Any]) -> dict[str, Any]:
    return {
        "path": str(goal),
        "target": compiled.target.name,
        "threads": compiled.threads,
        "batch_sizes": list(compiled.batch_sizes),
        "integer_kernels": len(compiled.report.kernels),
        "other_operators": [use.node for use in compiled.report.others],
        "bytes": sum(file.stat().st_size for file in goal.iterdir()),
        "seconds": dict(compiled.report.seconds),
        "verified": {k: v for k, v in checked.items() if k != "text"} or None,
    }

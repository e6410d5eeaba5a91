"""`qpc.compress`: a model, a recipe, and the functions that train and judge."""

from __future__ import annotations

import inspect
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from qpc.batches import Batch, checked_batches
from qpc.callbacks.protocol import Callback, Callbacks, checked_callbacks
from qpc.capture.checks import ExampleInputs
from qpc.capture.trace import trace
from qpc.compression.journal import Entry, Journal, held
from qpc.compression.measures import Timer, latency_ms, save_compiled
from qpc.compression.parallel import World, current_world
from qpc.compression.progress import Progress, Sink, planned, shown
from qpc.compression.recipe import Recipe
from qpc.compression.result import CompressResult
from qpc.compression.run import Inputs, Run, kinds, result_of
from qpc.compression.source import read_recipe
from qpc.compression.step import Batches, Evaluate, Loss, Train
from qpc.errors import CalibrationError, ConfigError
from qpc.facts import CORE_FORM
from qpc.meta import copied
from qpc.modes import ordinary_torch
from qpc.settings import require_kind
from qpc.storage import save_graph

BEST, COMPILED, RESULT, TABLE, PICTURE = "best", "compiled", "result.json", "table.txt", "plot.svg"


def compress(
    model: nn.Module,
    recipe: Recipe | Mapping[str, object] | str | os.PathLike[str],
    *,
    evaluate: Evaluate,
    train: Train | None = None,
    batches: Batches | None = None,
    loss: Loss | None = None,
    example_inputs: ExampleInputs | None = None,
    out: str | os.PathLike[str] | None = None,
    device: str | torch.device = "cpu",
    progress: bool | Sink = False,
    callbacks: Sequence[Callback] = (),
    timer: Timer = latency_ms,
) -> CompressResult:
    """Compress a model by a recipe, round after round while it is good enough, and return the best.

    model: any module that can be traced, or a graph of `qpc.trace`. It is not changed.
    recipe: a `qpc.Recipe`, the same as a mapping, or the path of a YAML file.
    evaluate: from a graph, which is its own, to one number that says how good it is.
    train: trains a graph: `train(gm, context)`, see `qpc.compression.training.TrainContext`. It
    must switch the graph back to inference: `qpc.set_training(gm, mode=False)`.
    batches: calibration data as `qpc.passes.Calibrate` takes them, or a function that returns them.
    loss: from output and batch to a scalar, for criteria that look at gradients.
    example_inputs: to trace the model with; taken from the first batch if not given.
    out: a folder that keeps everything. If it holds a run of this recipe and model that has not
    ended, that run goes on where it was, and ends with the same graphs, bit for bit.
    device: where training happens and float graphs are judged; integers are judged on the CPU.
    progress: whether to say on stderr what is done, and how long it may take; or where else.
    callbacks: what is told of progress and numbers, such as those of `qpc.callbacks.tensorboard`:
    "judged/metric" and the costs of each model that is judged, and what training reports.
    timer: from a graph and the recipe's `compile` to milliseconds, in place of a measurement.

    Raises ConfigError for a recipe that is wrong, lacks what its steps need, has a target that it
    cannot reach, or differs from that of the run in `out`; CalibrationError without batches;
    CompressionError if training or judging go wrong, or no model is inside of the budget. What was
    done until then is kept in `out`, and the same call goes on from there.
    """
    settings = recipe_of(recipe)
    require_kind("model", model, nn.Module, "a torch.nn.Module")
    _check_inputs(settings, train, evaluate, batches, loss)
    made = repeatable(batches)
    _check_not_empty(made)
    inputs = Inputs(evaluate, train, made, loss, torch.device(device), timer)
    given = checked_callbacks(callbacks)
    with current_world() as world, _folder(out, world) as folder:
        watchers = given if world.first else Callbacks(())
        gm = traced_model(model, example_inputs, made)
        journal = _journal(folder, plain := settings.plain(), world)
        told = shown(progress if world.first else False)
        with told as sink, watchers.watching("compress", plain):
            sinks = [each for each in (sink, watchers or None) if each is not None]
            run = Run(settings, inputs, journal, world, _progress(settings, sinks), watchers)
            outcome = run.go(gm)
        result = result_of(run, *outcome)
        if world.first and out is not None:
            _write(result, journal, settings)
        world.together(lambda: "")  # nobody leaves before the first process has written
        return result if out is not None else replace(result, folder=None)


# --- what is given --------------------------------------------------------------------------------


def recipe_of(recipe: object) -> Recipe:
    """A recipe, from any of the forms that `compress` takes."""
    if isinstance(recipe, Recipe):
        return recipe
    if isinstance(recipe, Mapping):
        return Recipe.model_validate(dict(recipe))
    if isinstance(recipe, str | os.PathLike):
        return read_recipe(recipe)
    require_kind("recipe", recipe, Recipe, "a Recipe, a mapping or the path of a YAML file")
    raise AssertionError  # the line above has raised


def _check_inputs(
    recipe: Recipe, train: object, evaluate: object, batches: object, loss: object
) -> None:
    given = {"train": train, "batches": batches, "loss": loss}
    for name, function in (("train", train), ("evaluate", evaluate), ("loss", loss)):
        if function is not None and not callable(function):
            raise ConfigError(f"{name} must be a function, got {type(function).__name__}")
    if evaluate is None:
        raise ConfigError("a run needs evaluate=", fix="pass a function from a graph to a number")
    for step in recipe.steps():
        for name in sorted(step.required):
            if given[name] is None:
                raise ConfigError(
                    f"the step {step.kind!r} needs {name}=", fix=f"pass {_WHAT[name]}"
                )
    recipe.require_reachable()


_WHAT = {
    "train": "train=, a function that trains a graph",
    "batches": "batches=, a list of calibration batches",
    "loss": "loss=, a function from output and batch to a scalar",
}


def repeatable(batches: Batches | None) -> Callable[[], Iterable[Batch]] | None:
    """Batches that can be read as often as wanted; those of a generator are kept."""
    if batches is None:
        return None
    if callable(batches) and not isinstance(batches, Iterable):
        return lambda: checked_batches(batches())
    checked = checked_batches(batches)
    if isinstance(checked, Iterator):
        kept = list(checked)
        return lambda: kept
    return lambda: checked


def _check_not_empty(batches: Callable[[], Iterable[Batch]] | None) -> None:
    if batches is not None and next(iter(batches()), None) is None:
        raise CalibrationError(
            "there are no calibration batches",
            fix="pass an iterable of batches; a generator that was used up is empty",
        )


@ordinary_torch()
def traced_model(
    model: nn.Module,
    example: ExampleInputs | None,
    batches: Callable[[], Iterable[Batch]] | None,
) -> GraphModule:
    """A graph of a model: its copy if it is one, else traced with the example or the first batch.

    Raises ConfigError if there is neither.
    """
    if isinstance(model, GraphModule) and CORE_FORM.violation(model) is None:
        return copied(model).to("cpu")
    if example is None:
        if batches is None:
            raise ConfigError(
                "the model cannot be traced without inputs",
                fix="pass example_inputs=, or a graph of qpc.trace",
            )
        example = _inputs_of(model, next(iter(batches())))
    return trace(model, example)


def _inputs_of(model: nn.Module, batch: Batch) -> ExampleInputs:
    """The inputs in a batch, which may go on with labels after them."""
    if isinstance(batch, Tensor | Mapping):
        return batch
    kinds_of_inputs = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    needed = [
        p
        for p in inspect.signature(model.forward).parameters.values()
        if p.kind in kinds_of_inputs and p.default is inspect.Parameter.empty
    ]
    return tuple(batch)[: max(len(needed), 1)]


# --- what is kept ---------------------------------------------------------------------------------


@contextmanager
def _folder(out: str | os.PathLike[str] | None, world: World) -> Iterator[Path]:
    """The folder of the run, which the first process has for itself."""
    if out is None:
        made: list[tempfile.TemporaryDirectory[str]] = []

        def make() -> str:
            made.append(tempfile.TemporaryDirectory(prefix="qpc-compress-"))
            return made[0].name

        try:
            yield Path(world.from_first(make))
        finally:
            for each in made:
                each.cleanup()
        return
    folder = Path(out)
    if not world.first:
        yield folder
        return
    with held(folder):
        yield folder


def _journal(folder: Path, recipe: Mapping[str, object], world: World) -> Journal:
    opened: list[Journal] = []

    def begin() -> str:
        if not world.first:
            return ""
        opened.append(Journal.begin(folder, recipe))
        return json.dumps([entry.plain() for entry in opened[0].entries])

    said = world.together(begin, 0)
    if opened:
        return opened[0]
    return Journal(folder, recipe, [Entry.of(each) for each in json.loads(said)], writes=False)


def _progress(recipe: Recipe, sinks: Sequence[Sink]) -> Progress:
    rounds = recipe.rounds
    left = planned(
        kinds(recipe.start, "start"),
        kinds(rounds.steps, "round") if rounds else [],
        kinds(recipe.finish, "finish"),
        rounds.at_most if rounds else 0,
    )
    return Progress(sinks, left)


def _write(result: CompressResult, journal: Journal, recipe: Recipe) -> None:
    """The result beside the journal: the best graph, numbers, the table and the picture."""
    save_graph(result.model, journal.folder / BEST)
    if recipe.compilation is not None and recipe.compilation.save:
        save_compiled(result.model, recipe.compilation, journal.folder / COMPILED)
    journal.write_result(
        {
            RESULT: json.dumps(result.plain(), indent=2) + "\n",
            TABLE: result.table() + "\n",
            PICTURE: result.plot(),
        }
    )

"""From what a recipe says about model and data to the functions that `qpc.compress` takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from qpc.compression.classification import Classification
from qpc.compression.data import FunctionData, ImageData, TensorData
from qpc.compression.recipe import Recipe
from qpc.compression.samples import ImageSamples, Samples, TensorSamples
from qpc.compression.step import Batches, Evaluate, Loss, Train
from qpc.errors import ConfigError
from qpc.references import function_of, relative

_NAMES = ("train.inputs", "train.labels", "test.inputs", "test.labels")


@dataclass(frozen=True)
class Task:
    """The functions that a run needs; see `qpc.compress`."""

    evaluate: Evaluate
    train: Train | None = None
    batches: Batches | None = None
    loss: Loss | None = None


def model_of(recipe: Recipe, folder: Path) -> nn.Module:
    """The model that a recipe in `folder` names; raises ConfigError if that is none."""
    if recipe.model is None:
        raise ConfigError(
            "the recipe names no model", fix="model: file.py:function, which returns the model"
        )
    model = function_of(recipe.model, folder, "model")()
    if not isinstance(model, nn.Module):
        raise ConfigError(
            f"model: {recipe.model!r} returned {type(model).__name__}, not a torch.nn.Module"
        )
    return model


def task_of(recipe: Recipe, folder: Path) -> Task:
    """The functions for the data that a recipe in `folder` names; raises ConfigError without."""
    data = recipe.data
    if data is None:
        raise ConfigError(
            "the recipe names no data",
            fix="data: {kind: tensors, file: ...}, or another kind; see docs/compression.md",
        )
    if isinstance(data, FunctionData):
        return _functions(data, folder)
    training, test = _samples(data, folder)
    task = Classification(
        training,
        test,
        data.batch_size,
        data.learning_rate,
        data.momentum,
        data.weight_decay,
        data.flip,
        data.calibration,
    )
    return Task(task.evaluate, task.train, task.batches, task.loss)


def moved(recipe: Recipe, old: Path, new: Path) -> Recipe:
    """The same recipe for another folder, to which its files are then relative."""
    changed: dict[str, object] = {}
    if recipe.model is not None:
        changed["model"] = relative(recipe.model, old, new)
    if recipe.data is not None:
        fields = {
            name: relative(value, old, new)
            for name in _FILES
            if (value := getattr(recipe.data, name, None)) is not None
        }
        changed["data"] = recipe.data.model_copy(update=fields)
    return recipe.model_copy(update=changed)


_FILES = ("file", "source", "train", "test", "evaluate", "batches", "loss")
"""Settings of data that name a file or a function."""


def _functions(data: FunctionData, folder: Path) -> Task:
    def named(name: str) -> Callable[..., object] | None:
        reference = getattr(data, name)
        return None if reference is None else function_of(reference, folder, f"data.{name}")

    return Task(
        cast(Evaluate, named("evaluate")),
        cast("Train | None", named("train")),
        cast("Batches | None", named("batches")),
        cast("Loss | None", named("loss")),
    )


def _samples(data: TensorData | ImageData, folder: Path) -> tuple[Samples, Samples]:
    if isinstance(data, ImageData):
        train = ImageSamples(folder / data.train, data.size, data.mean, data.std)
        test = ImageSamples(folder / data.test, data.size, data.mean, data.std)
        if train.classes != test.classes:
            raise ConfigError(
                f"data: {data.train!r} has the classes {', '.join(train.classes)}, "
                f"{data.test!r} {', '.join(test.classes)}",
                fix="both need a folder for each class",
            )
        return train, test
    tensors = _tensors(data, folder)
    if not isinstance(tensors, Mapping) or set(_NAMES) - tensors.keys():
        got = ", ".join(tensors) if isinstance(tensors, Mapping) else type(tensors).__name__
        raise ConfigError(f"data: there must be the tensors {', '.join(_NAMES)}, got {got}")
    values: list[Tensor] = [tensors[name] for name in _NAMES]
    return TensorSamples(values[0], values[1]), TensorSamples(values[2], values[3])


def _tensors(data: TensorData, folder: Path) -> object:
    if data.source is not None:
        return function_of(data.source, folder, "data.source")()
    path = folder / str(data.file)
    try:
        return load_file(path)
    except (OSError, SafetensorError) as e:
        raise ConfigError(f"data.file: cannot read {str(path)!r}: {e}") from e

"""Models and data, opened as the options of a command say."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from qpc.capture.checks import ExampleInputs
from qpc.errors import ConfigError
from qpc.explanation.inspection import stage_of
from qpc.given.data import Data, Part, data_of
from qpc.given.inputs import examples, inputs_of_text
from qpc.given.model import Model, model_of
from qpc.given.options import DataOptions, ModelOptions
from qpc.images import MEAN, STD, Preparation
from qpc.meta import info
from qpc.terminal.reporter import Reporter
from qpc.types import TensorType

_IMAGE = "1x3x224x224"
"""The input of most classifiers of images."""
_BATCH = 16  # samples, if nothing else is said
_RESIZE = 256 / 224
"""By how much images are larger before the middle is cut out, where classifiers are judged."""


@dataclass(frozen=True)
class Opened:
    """A model and its data; data: None if none was given."""

    model: Model
    data: Data | None
    options: DataOptions

    def require_data(self, what: str) -> Samples:
        """The data. Raises ConfigError without; `what` needs some."""
        if self.data is None:
            raise ConfigError(
                f"{what} needs data", fix="--data FOLDER of images, or a file; see --help"
            )
        return Samples(self.data, self.options, inputs_of_model(self.model))


@dataclass(frozen=True)
class Samples:
    """Data for a model: in batches, in the dtypes of its inputs."""

    data: Data
    options: DataOptions
    types: Sequence[TensorType]

    @property
    def count(self) -> int | None:
        """How many samples are used; None if nobody knows."""
        return self._used(None)

    def batches(self, size: int | None = None, most: int | None = None) -> Iterator[Part]:
        """The samples in batches.

        size: of a batch, most: how many samples, each in place of the option.
        """
        for part in self.data.parts(self._size(size), self._most(most)):
            yield replace(part, inputs=tuple(self._fitting(part.inputs)))

    def number_of_batches(self, size: int | None = None, most: int | None = None) -> int | None:
        """How many batches there are, if anybody knows."""
        used = self._used(most)
        return None if used is None else -(-used // self._size(size))

    def _size(self, size: int | None) -> int:
        return size or self.options.batch or _BATCH

    def _most(self, most: int | None) -> int | None:
        return self.options.samples if most is None else most

    def _used(self, most: int | None) -> int | None:
        known, wanted = self.data.count, self._most(most)
        return known if wanted is None else wanted if known is None else min(wanted, known)

    def _fitting(self, values: Sequence[Tensor]) -> Iterator[Tensor]:
        """Floats in the precision of the model, integers in its width."""
        for value, wanted in zip(values, self.types, strict=False):
            same = value.is_floating_point() == wanted.dtype.is_floating_point
            yield value.to(wanted.dtype) if same else value


def open_model(reporter: Reporter, model: ModelOptions, data: DataOptions | None = None) -> Opened:
    """The model and the data of a command's options.

    Raises ConfigError and its kin for what cannot be opened or does not go together.
    """
    options = data or DataOptions()
    opening = "reading the model" if Path(model.model).is_dir() else "tracing the model"

    def example(module: nn.Module) -> ExampleInputs | None:
        return _example(reporter, module, options)

    with reporter.phase(opening):
        opened = model_of(model.model, model.input or (), model.weights, example=example)
    if options.data is None:
        return Opened(opened, None, options)
    types = inputs_of_model(opened)
    how = preparation([types[0].shape] if len(types) == 1 else [], options)
    names = input_names(opened)
    return Opened(opened, data_of(options.data, how, names, options.classes), options)


def float_model(opened: Opened, model: ModelOptions, reference: str | None) -> GraphModule:
    """The float model: the one that is named, else the one that is kept.

    reference: what `--float` says. Raises ConfigError if there is none.
    """
    found = opened.model.original
    if reference is not None:
        found = model_of(reference, model.input or ()).require_float("--float")
    if found is None and opened.model.graph is not None and stage_of(opened.model.graph) == "float":
        raise ConfigError(
            f"{model.model!r} is in float, and there is nothing to explain before it is quantized",
            fix="pass the folder that `qpc quantize` wrote",
        )
    if found is None:
        raise ConfigError(f"the float model of {model.model!r} is not there", fix="--float MODEL")
    return found


def _example(reporter: Reporter, module: nn.Module, options: DataOptions) -> ExampleInputs | None:
    """Inputs to trace a module with, where none are written: from the data, if that can tell."""
    if options.data is None:
        return None
    if Path(options.data).is_dir():
        reporter.note(f"the input is taken to be {_IMAGE}; --input says another one")
        return examples(inputs_of_text([_IMAGE]))
    found = data_of(options.data, None, _parameters(module), options.classes)
    floats = (p.dtype for p in module.parameters() if p.is_floating_point())
    dtype = next(floats, torch.float32)  # numpy's floats have 64 bits, most models' 32
    inputs = next(iter(found.parts(1))).inputs
    return tuple(x.to(dtype) if x.is_floating_point() else x for x in inputs)


def _parameters(module: nn.Module) -> list[str]:
    """The names of the inputs that a module needs."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    found = inspect.signature(module.forward).parameters.values()
    needed = [p.name for p in found if p.kind in kinds and p.default is inspect.Parameter.empty]
    return needed or ["inputs"]


# --- inputs ---------------------------------------------------------------------------------------


def placeholder_types(gm: GraphModule, batch: int = 1) -> list[TensorType]:
    """The shapes and dtypes of a graph's inputs at a batch size."""
    found = []
    for node in gm.graph.find_nodes(op="placeholder"):
        about = info(node)
        shape = tuple(d if isinstance(d, int) else d.at(batch) for d in about.shape or ())
        assert about.dtype is not None
        found.append(TensorType(shape, about.dtype))
    return found


def inputs_of_model(model: Model) -> Sequence[TensorType]:
    """The shapes and dtypes of a model's inputs, at its first batch size."""
    if model.graph is not None:
        return placeholder_types(model.graph)
    assert model.compiled is not None
    return next(iter(model.compiled.signature.inputs.values()))


def input_names(model: Model) -> list[str]:
    """The names of a model's inputs."""
    if model.graph is not None:
        return [str(node.target) for node in model.graph.graph.find_nodes(op="placeholder")]
    assert model.compiled is not None
    return list(model.compiled.signature.names)


def preparation(shapes: Sequence[Sequence[int]], options: DataOptions) -> Preparation | None:
    """How images become inputs of these shapes; None if no image has such a shape.

    Raises ConfigError for numbers that cannot be read, or do not go together.
    """
    if len(shapes) != 1 or len(shapes[0]) != 4 or shapes[0][1] not in (1, 3):
        return None
    _, channels, height, width = shapes[0]
    defaults = (MEAN, STD) if channels == 3 else ((0.0,), (1.0,))
    mean = _numbers("--mean", options.mean) or defaults[0]
    std = _numbers("--std", options.std) or defaults[1]
    for name, values in (("--mean", mean), ("--std", std)):
        if len(values) != channels:
            raise ConfigError(f"{name} has {len(values)} values, the model {channels} channels")
    if options.stretch and options.resize is not None:
        raise ConfigError("--stretch scales to the model's size, so --resize says nothing")
    shorter = options.resize or round(_RESIZE * max(height, width))
    return Preparation((height, width), mean, std, None if options.stretch else shorter)


def _numbers(name: str, text: str | None) -> tuple[float, ...]:
    if text is None:
        return ()
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as e:
        raise ConfigError(
            f"{name} must be numbers, got {text!r}", fix=f"such as {name} 0.485,0.456,0.406"
        ) from e

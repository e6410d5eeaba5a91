"""Samples with labels: tensors in memory, or images in folders, read when they are needed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from qpc.errors import ConfigError
from qpc.images import ENDINGS, Preparation, read_image, require_pillow


class Samples(Protocol):
    """Inputs with labels.

    labels: int64[n], the class of each.
    """

    @property
    def labels(self) -> Tensor: ...

    def inputs(self, chosen: Tensor) -> Tensor:
        """The inputs of the samples with these numbers, float32[len(chosen), ...]."""


@dataclass(frozen=True)
class TensorSamples:
    """All inputs in one tensor.

    values: float32[n, ...]; labels: int64[n]. Raises ConfigError if they do not go together.
    """

    values: Tensor = field(repr=False)
    labels: Tensor = field(repr=False)

    def __post_init__(self) -> None:
        for name, tensor in (("inputs", self.values), ("labels", self.labels)):
            if not isinstance(tensor, Tensor):
                raise ConfigError(f"{name} must be a tensor, got {type(tensor).__name__}")
        if self.values.dtype != torch.float32:
            raise ConfigError(
                f"inputs must be float32, got {self.values.dtype}",
                fix="normalise them as the model wants them: x.float() / 255",
            )
        if self.labels.dim() != 1 or self.labels.is_floating_point():
            shape = list(self.labels.shape)
            raise ConfigError(f"labels must be int64[n], got {self.labels.dtype}{shape}")
        if self.values.dim() == 0 or len(self.values) != len(self.labels):
            raise ConfigError(
                f"there are {len(self.labels)} labels for inputs of shape {list(self.values.shape)}"
            )
        if len(self.labels) == 0:
            raise ConfigError("there are no samples", fix="check what the data is read from")
        object.__setattr__(self, "labels", self.labels.long())

    def inputs(self, chosen: Tensor) -> Tensor:
        return self.values[chosen]


@dataclass(frozen=True)
class ImageSamples:
    """Images in folders, one for each class, in alphabetical order of folders and files.

    size: height and width that they are scaled to. mean, std: of each channel, in values from 0 to
    1; one channel reads images as grey, three as colours.

    Raises ConfigError if there are none, MissingDependencyError without Pillow.
    """

    folder: Path
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: tuple[str, ...] = field(init=False)
    labels: Tensor = field(init=False, repr=False)
    _files: Sequence[Path] = field(init=False, repr=False)
    _how: Preparation = field(init=False, repr=False)

    def __post_init__(self) -> None:
        require_pillow()
        object.__setattr__(self, "_how", Preparation(self.size, self.mean, self.std))
        if not self.folder.is_dir():
            raise ConfigError(f"there is no folder {str(self.folder)!r}", fix="check the path")
        classes = sorted(path.name for path in self.folder.iterdir() if path.is_dir())
        found = [(place, file) for place, name in enumerate(classes) for file in self._in(name)]
        if not found:
            raise ConfigError(
                f"there are no images in the folders of {str(self.folder)!r}",
                fix="put images into one folder for each class",
            )
        object.__setattr__(self, "classes", tuple(classes))
        object.__setattr__(self, "labels", torch.tensor([place for place, _ in found]))
        object.__setattr__(self, "_files", tuple(file for _, file in found))

    def _in(self, name: str) -> list[Path]:
        folder = self.folder / name
        names = sorted(n for n in os.listdir(folder) if n.lower().endswith(ENDINGS))
        return [folder / each for each in names]

    def inputs(self, chosen: Tensor) -> Tensor:
        return torch.stack([read_image(self._files[int(number)], self._how) for number in chosen])

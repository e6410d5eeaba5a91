"""The data that is written on the command line: a folder of images, a file, or a function."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from qpc.errors import ConfigError, QPCError
from qpc.given.model import user_code_failed
from qpc.given.options import DATA_FIX
from qpc.images import ENDINGS, Preparation, read_image, require_pillow
from qpc.references import function_of

_NUMPY_MARKS = {".npy": b"\x93NUMPY", ".npz": b"PK"}
"""How files of numpy begin."""
_LABELS = ("labels", "label", "targets", "y")
"""What labels may be called in a file."""


@dataclass(frozen=True)
class Part:
    """Some samples: the inputs, each with the samples along its first axis, and their labels.

    labels: int64[n], the class of each; None if there are none.
    """

    inputs: tuple[Tensor, ...]
    labels: Tensor | None = None

    def __len__(self) -> int:
        return len(self.inputs[0])


class Data(Protocol):
    """Samples that were given.

    count: how many there are; None if nobody knows. labelled: whether they have labels.
    """

    @property
    def count(self) -> int | None: ...
    @property
    def labelled(self) -> bool: ...

    def parts(self, size: int, most: int | None = None) -> Iterator[Part]:
        """The samples, up to `size` at a time; of more than `most` some, drawn once for all."""


def data_of(
    written: str, how: Preparation | None, names: Sequence[str], classes: Path | None
) -> Data:
    """The data that is written.

    how: what is done to images; None if the model takes none. names: of the model's inputs, by
    which files may name their tensors. classes: a file with the names of the model's classes, one a
    line, in the order of its outputs, by which folders of images are labelled.

    Raises ConfigError for what is none of these, and for what is in it.
    """
    path = Path(written)
    if path.is_dir():
        if how is None:
            raise ConfigError(
                f"{written!r} is a folder, of images, and the model takes no images",
                fix="pass a file .npz or .safetensors with its inputs by name",
            )
        return ImageFolder.of(path, how, classes)
    if path.is_file() and path.suffix in (".npy", ".npz", ".safetensors"):
        return Arrays.of(_tensors(path), names, repr(written))
    if ":" in written and not path.exists():
        return _of_function(written, names)
    what = "is no data that QPC reads" if path.exists() else "is not there"
    raise ConfigError(f"{written!r} {what}", fix=DATA_FIX)


def chosen(count: int, most: int | None) -> Tensor:
    """Which of `count` samples are taken: all in order, or `most` of them, drawn once."""
    if most is None or most >= count:
        return torch.arange(count)
    return torch.randperm(count, generator=torch.Generator().manual_seed(0))[:most]


# --- images ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ImageFolder:
    """Images in folders, one for each class, or all in one folder without labels.

    numbers: the class of each image by its folder: the number that the folder is called, if all are
    numbers; its place in the file of classes; else its place in alphabetical order.
    """

    files: tuple[Path, ...]
    numbers: tuple[int, ...]
    how: Preparation

    @staticmethod
    def of(folder: Path, how: Preparation, classes: Path | None = None) -> ImageFolder:
        """The images of a folder. Raises ConfigError if there are none."""
        require_pillow()
        folders = sorted(p.name for p in folder.iterdir() if p.is_dir() and p.name[0] != ".")
        found = [(name, file) for name in folders for file in _images(folder / name)]
        if found:
            place = _places([name for name in folders if any(n == name for n, _ in found)], classes)
            numbers = tuple(place[name] for name, _ in found)
            return ImageFolder(tuple(file for _, file in found), numbers, how)
        files = tuple(_images(folder))
        if not files:
            raise ConfigError(
                f"there are no images in {str(folder)!r}, nor in folders of it",
                fix=f"put files there that end in {', '.join(ENDINGS)}",
            )
        return ImageFolder(files, (), how)

    @property
    def count(self) -> int:
        return len(self.files)

    @property
    def labelled(self) -> bool:
        return bool(self.numbers)

    def parts(self, size: int, most: int | None = None) -> Iterator[Part]:
        for numbers in chosen(len(self.files), most).split(size):
            images = torch.stack([read_image(self.files[int(n)], self.how) for n in numbers])
            labels = torch.tensor([self.numbers[int(n)] for n in numbers]) if self.numbers else None
            yield Part((images,), labels)


_MOST_DIGITS = 9
"""Of a number of a class; longer ones are dates and the like."""


def _images(folder: Path) -> list[Path]:
    names = sorted(n for n in os.listdir(folder) if n.lower().endswith(ENDINGS) and n[0] != ".")
    return [folder / name for name in names]


def _places(folders: Sequence[str], classes: Path | None) -> dict[str, int]:
    if classes is not None:
        try:
            lines = classes.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as e:
            raise ConfigError(f"cannot read {str(classes)!r}: {e}") from e
        known = {line.strip(): place for place, line in enumerate(lines)}
        if unknown := [name for name in folders if name not in known]:
            raise ConfigError(
                f"the folder {unknown[0]!r} is called like none of the classes in {str(classes)!r}",
                fix="call folders by the names in that file",
            )
        return {name: known[name] for name in folders}
    if all(name.isdecimal() and len(name) <= _MOST_DIGITS for name in folders):
        return {name: int(name) for name in folders}
    return {name: place for place, name in enumerate(folders)}


# --- tensors --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Arrays:
    """Samples in memory: tensors with the samples along their first axes."""

    inputs: tuple[Tensor, ...]
    labels: Tensor | None

    @staticmethod
    def of(tensors: Mapping[str, Tensor], names: Sequence[str], where: str) -> Arrays:
        """Tensors by name: those of the inputs, or as many as there are inputs; and labels.

        Raises ConfigError if they do not go together.
        """
        labels = next((tensors[name] for name in _LABELS if name in tensors), None)
        others = {name: value for name, value in tensors.items() if name not in _LABELS}
        if all(name in others for name in names):
            inputs = tuple(others[name] for name in names)
        elif len(others) == len(names):
            inputs = tuple(others.values())
        else:
            raise ConfigError(
                f"{where} holds {', '.join(map(repr, tensors)) or 'nothing'}, "
                f"the model takes {', '.join(map(repr, names))}",
                fix="name the tensors like the inputs, and classes 'labels'",
            )
        sizes = {len(v) if v.dim() else 0 for v in (*inputs, *([] if labels is None else [labels]))}
        if len(sizes) > 1 or sizes == {0}:
            raise ConfigError(
                f"{where} has different numbers of samples: {', '.join(map(str, sorted(sizes)))}",
                fix="the first axis of every tensor is that of the samples",
            )
        if labels is not None and (labels.dim() != 1 or labels.is_floating_point()):
            raise ConfigError(f"the labels of {where} must be integers along one axis")
        return Arrays(inputs, None if labels is None else labels.long())

    @property
    def count(self) -> int:
        return len(self.inputs[0])

    @property
    def labelled(self) -> bool:
        return self.labels is not None

    def parts(self, size: int, most: int | None = None) -> Iterator[Part]:
        for numbers in chosen(self.count, most).split(size):
            labels = None if self.labels is None else self.labels[numbers]
            yield Part(tuple(value[numbers] for value in self.inputs), labels)


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        _require_mark(path)
        if path.suffix == ".safetensors":
            return load_file(path)
        with path.open("rb") as file:  # which numpy leaves open if it is damaged
            found = np.load(file, allow_pickle=False)
            if path.suffix == ".npy":
                return {"inputs": torch.from_numpy(found)}
            return {name: torch.from_numpy(found[name]) for name in found.files}
    except ConfigError:
        raise
    except Exception as e:  # damaged files raise what zipfile, tokenize and others do
        raise ConfigError(f"cannot read {str(path)!r}: {e}", fix="write it again") from e


def _require_mark(path: Path) -> None:
    """Numpy takes a file without its mark for a pickle, and would advise to load that."""
    mark = _NUMPY_MARKS.get(path.suffix, b"")
    with path.open("rb") as file:
        found = file.read(len(mark))
    if found != mark:
        raise ConfigError(
            f"cannot read {str(path)!r}: it is no file of numpy", fix="write it again"
        )


# --- functions ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Batches:
    """Batches of a function of the user's, in the order in which it gives them."""

    batches: Sequence[Part]

    @property
    def count(self) -> int:
        return sum(map(len, self.batches))

    @property
    def labelled(self) -> bool:
        return all(part.labels is not None for part in self.batches)

    def parts(self, size: int, most: int | None = None) -> Iterator[Part]:
        left = self.count if most is None else most
        for part in self.batches:
            for start in range(0, min(len(part), left), size):
                stop = min(start + size, len(part), left)
                labels = None if part.labels is None else part.labels[start:stop]
                yield Part(tuple(value[start:stop] for value in part.inputs), labels)
            left -= min(len(part), left)
            if left <= 0:
                return


def _of_function(written: str, names: Sequence[str]) -> Data:
    """What a function returns: tensors by name, a tensor, (inputs, labels), or batches of these."""
    try:
        made = function_of(written, Path(), "data")()
        if not isinstance(made, Iterable) or isinstance(made, str | bytes | Tensor | Mapping):
            return _of_one(made, names, written)
        batches = made if isinstance(made, tuple) else list(made)
    except QPCError:
        raise
    except Exception as e:
        raise user_code_failed(written, e) from e
    if isinstance(batches, tuple) and batches and all(isinstance(v, Tensor) for v in batches):
        part = _part(batches, names, written)
        return Arrays(part.inputs, part.labels)
    parts = [_part(batch, names, written) for batch in batches]
    if not parts:
        raise ConfigError(f"{written!r} returned no batches", fix="return a list of batches")
    return Batches(parts)


def _of_one(made: object, names: Sequence[str], written: str) -> Data:
    """All samples together: tensors by name, or one tensor."""
    if isinstance(made, Tensor):
        return Arrays.of({"inputs": made}, names, repr(written))
    if isinstance(made, Mapping):
        return Arrays.of(cast("Mapping[str, Tensor]", made), names, repr(written))
    raise ConfigError(
        f"{written!r} returned {type(made).__name__}, which is no data",
        fix="return tensors, or a list of batches",
    )


def _part(batch: object, names: Sequence[str], written: str) -> Part:
    if isinstance(batch, Mapping):
        arrays = Arrays.of(cast("Mapping[str, Tensor]", batch), names, f"a batch of {written!r}")
        return Part(arrays.inputs, arrays.labels)
    given = [batch] if isinstance(batch, Tensor) else list(cast("Iterable[object]", batch))
    tensors = [value for value in given if isinstance(value, Tensor)]
    if len(tensors) < len(given) or len(tensors) not in (len(names), len(names) + 1):
        kinds = ", ".join(type(value).__name__ for value in given)
        raise ConfigError(
            f"a batch of {written!r} holds {kinds or 'nothing'}; the model takes {len(names)} "
            "input(s), and labels may follow",
            fix="return tensors",
        )
    labels = tensors[len(names)].long() if len(tensors) > len(names) else None
    return Part(tuple(tensors[: len(names)]), labels)

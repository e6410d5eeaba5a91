"""Images from files as tensors, prepared as classifiers are: scaled, cut out, normalised."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from qpc.errors import ConfigError, MissingDependencyError
from qpc.installing import install_line

ENDINGS = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""How the names of files end that are taken for images."""
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of the colours of ImageNet's training images, with which most classifiers were trained."""
_GREATEST = 255  # value of a pixel
_MOST_PIXELS = 1 << 26  # of an image that is scaled before its middle is cut out: 200 MB of colours


@dataclass(frozen=True)
class Preparation:
    """What is done to every image.

    size: height and width of the result. shorter: pixels to which the shorter side is scaled before
    the middle is cut out; None to scale both sides to `size`, whatever becomes of the proportions.
    mean, std: of each channel, in values from 0 to 1; one channel reads images as grey, three as
    colours.

    Raises ConfigError for another number of channels, and for a cut that does not fit.
    """

    size: tuple[int, int]
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD
    shorter: int | None = None

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or len(self.mean) not in (1, 3):
            raise ConfigError(
                f"mean and std must have 1 or 3 values each, got {len(self.mean)} and "
                f"{len(self.std)}"
            )
        if self.shorter is not None and self.shorter < max(self.size):
            raise ConfigError(
                f"{self.size[0]}x{self.size[1]} pixels cannot be cut out of images whose shorter "
                f"side has {self.shorter}",
                fix=f"scale them to at least {max(self.size)}",
            )

    def __str__(self) -> str:
        height, width = self.size
        if self.shorter is None:
            return f"scaled to {height}x{width}"
        return f"shorter side scaled to {self.shorter}, the middle {height}x{width} cut out"


def require_pillow() -> None:
    """Raise MissingDependencyError without Pillow."""
    try:
        import PIL.Image  # noqa: F401
    except ImportError as e:
        raise MissingDependencyError(
            "images are read with Pillow, which is not installed", fix=install_line("images")
        ) from e


def read_image(path: Path, how: Preparation) -> Tensor:
    """One image: float32[channels, height, width].

    Raises ConfigError if the file cannot be read as one.
    """
    from PIL import Image

    channels = len(how.mean)
    height, width = how.size
    bilinear = Image.Resampling.BILINEAR
    try:
        with Image.open(path) as image:
            plain = image.convert("L" if channels == 1 else "RGB")
            if how.shorter is None:
                made = plain.resize((width, height), bilinear)
            else:
                wide, high = _scaled(path, plain.size, how.shorter)
                left, top = (wide - width) // 2, (high - height) // 2
                made = plain.resize((wide, high), bilinear)
                made = made.crop((left, top, left + width, top + height))
    except ConfigError:
        raise
    except Exception as e:  # each of Pillow's formats has its own ways to fail
        raise ConfigError(
            f"{str(path)!r} cannot be read as an image: {e}",
            fix="take the file away, or replace it by a whole one",
        ) from e
    pixels = torch.from_numpy(np.array(made)).reshape(height, width, channels)
    values = pixels.permute(2, 0, 1).float() / _GREATEST
    mean, std = (torch.tensor(v).reshape(-1, 1, 1) for v in (how.mean, how.std))
    return (values - mean) / std


def _scaled(path: Path, size: tuple[int, int], shorter: int) -> tuple[int, int]:
    """Width and height once the shorter side is scaled; ConfigError if that is far too much."""
    scale = shorter / min(size)
    wide, high = (max(round(side * scale), shorter) for side in size)
    if wide * high > _MOST_PIXELS:
        raise ConfigError(
            f"{str(path)!r} has {size[0]}x{size[1]} pixels, and with a shorter side of {shorter} it"
            f" would have {wide}x{high}",
            fix="cut it to a usual shape, or scale both sides",
        )
    return wide, high

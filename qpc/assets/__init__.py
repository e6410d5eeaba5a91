"""The trained demonstration model and a few of its images, shipped with the package.

`examples/train_fashion_mnist.py` makes both files. The images are Fashion-MNIST's (Zalando SE, MIT
licence, see `LICENSE-fashion-mnist.txt` beside them).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from qpc.models import ResNet, resnet18

MODEL_FILE = "resnet18_fashion_mnist.safetensors"
IMAGES_FILE = "fashion_mnist_subset.safetensors"
# All metadata is one text, because safetensors writes several in no particular order.
METADATA_KEY = "demo"

# Mean and standard deviation of the 60,000 training images, of pixels scaled to [0, 1].
PIXEL_MEAN = 0.2860
PIXEL_STD = 0.3530


@dataclass(frozen=True)
class DemoMetadata:
    """What is known about the shipped weights besides their values."""

    width: int
    classes: tuple[str, ...]
    pixel_mean: float
    pixel_std: float
    top1: float
    """Share of the 10,000 test images that the float model gets right."""
    data_licence: str


@dataclass(frozen=True)
class DemoImages:
    """Normalised images, float32[n, 1, 28, 28], and the labels of those to test with, int64[n]."""

    calibration: Tensor
    test: Tensor
    labels: Tensor


def load_demo_model(folder: Path | None = None) -> tuple[ResNet, DemoMetadata]:
    """Return the ResNet-18 trained on Fashion-MNIST, in eval mode, and its metadata."""
    with safe_open((folder or _FOLDER) / MODEL_FILE, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        fields = json.loads(file.metadata()[METADATA_KEY])
    metadata = DemoMetadata(**fields | {"classes": tuple(fields["classes"])})
    model = resnet18(
        width=metadata.width, stem="cifar", in_channels=1, classes=len(metadata.classes)
    )
    model.load_state_dict(tensors)
    return model.eval(), metadata


def load_demo_images(folder: Path | None = None) -> DemoImages:
    """Return the shipped Fashion-MNIST images: 512 to calibrate with, 2,500 others to test with."""
    tensors = load_file((folder or _FOLDER) / IMAGES_FILE)
    return DemoImages(
        calibration=normalise(tensors["calibration"]),
        test=normalise(tensors["test"]),
        labels=tensors["labels"].long(),
    )


def normalise(pixels: Tensor) -> Tensor:
    """Return what the model expects, float32[n, 1, h, w], of grey pixels, uint8[n, h, w]."""
    return (pixels.unsqueeze(1).float() / 255.0 - PIXEL_MEAN) / PIXEL_STD


_FOLDER = Path(__file__).parent

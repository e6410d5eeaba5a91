"""Train the demonstration model and cut the shipped image subsets.

The data is Debian's package dataset-fashion-mnist (`apt install dataset-fashion-mnist`). Twelve
epochs take about half an hour on one core. The result is what `qpc.assets` loads:

    python examples/train_fashion_mnist.py --out qpc/assets
"""

from __future__ import annotations

import argparse
import gzip
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from qpc.assets import (
    IMAGES_FILE,
    METADATA_KEY,
    MODEL_FILE,
    PIXEL_MEAN,
    PIXEL_STD,
    DemoMetadata,
    normalise,
)
from qpc.models import ResNet, resnet18

CLASSES = (
    "t-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
DATA_LICENCE = "MIT, copyright 2017 Zalando SE (Fashion-MNIST)"
CALIBRATION_IMAGES = 512
TEST_IMAGES = 2500
# With fewer channels, the gradients of PyTorch 2.13's channels-last convolutions crash on AVX2.
LANES = 8


@dataclass(frozen=True)
class Split:
    """Grey pixels, uint8[n, 28, 28], and labels, int64[n]."""

    pixels: Tensor
    labels: Tensor


def main(argv: Sequence[str] | None = None) -> None:
    """Train, report the accuracy on the whole test set, and write both files."""
    options = _parser().parse_args(argv)
    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    train_set, test_set = read_split(options.data, "train"), read_split(options.data, "t10k")
    model = resnet18(width=options.width, stem="cifar", in_channels=1, classes=len(CLASSES))
    if options.width >= LANES:  # a quarter faster on a CPU
        nn.utils.convert_conv2d_weight_memory_format(model, torch.channels_last)
    train(model, train_set, test_set, epochs=options.epochs)
    top1 = accuracy(model, test_set)
    print(f"top-1 on all {len(test_set.labels)} test images: {top1:.4f}")
    options.out.mkdir(parents=True, exist_ok=True)
    save_model(options.out / MODEL_FILE, model, width=options.width, top1=top1)
    save_images(options.out / IMAGES_FILE, train_set, test_set)


def train(model: ResNet, train_set: Split, test_set: Split, *, epochs: int) -> None:
    """Fit `model` in place: SGD under a one-cycle learning rate, on shifted and mirrored images."""
    # Batch-norm's scale and shift, and the bias, are not decayed.
    decayed = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() <= 1]
    optimizer = torch.optim.SGD(
        [{"params": decayed, "weight_decay": 5e-4}, {"params": others, "weight_decay": 0.0}],
        lr=0.1,
        momentum=0.9,
        nesterov=True,
    )
    batch_size = 128
    steps = epochs * max(len(train_set.labels) // batch_size, 1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=0.15, total_steps=max(steps, 1), pct_start=0.25
    )
    loss_function = nn.CrossEntropyLoss(label_smoothing=0.05)
    for epoch in range(epochs):
        started, total = time.perf_counter(), 0.0
        model.train()
        for chosen in _batches(len(train_set.labels), batch_size):
            images = _augment(normalise(train_set.pixels[chosen]))
            loss = loss_function(model(images), train_set.labels[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item() * len(chosen)
        print(
            f"epoch {epoch + 1}/{epochs}: loss {total / len(train_set.labels):.4f}, "
            f"top-1 {accuracy(model, test_set):.4f}, {time.perf_counter() - started:.0f} s",
            flush=True,
        )


@torch.no_grad()
def accuracy(model: ResNet, split: Split) -> float:
    """Return the share of images whose largest logit is the label's; puts `model` in eval mode."""
    model.eval()
    right = 0
    for pixels, labels in zip(split.pixels.split(500), split.labels.split(500), strict=True):
        right += int((model(normalise(pixels)).argmax(1) == labels).sum())
    return right / len(split.labels)


def save_model(path: Path, model: ResNet, *, width: int, top1: float) -> None:
    """Write the weights, with what is needed to use them in the header."""
    metadata = DemoMetadata(
        width=width,
        classes=CLASSES,
        pixel_mean=PIXEL_MEAN,
        pixel_std=PIXEL_STD,
        top1=top1,
        data_licence=DATA_LICENCE,
    )
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, path, metadata={METADATA_KEY: json.dumps(asdict(metadata))})


def save_images(path: Path, train_set: Split, test_set: Split) -> None:
    """Write the first images of the training set, to calibrate, and of the test set, labelled."""
    tensors = {
        "calibration": train_set.pixels[:CALIBRATION_IMAGES].clone(),
        "test": test_set.pixels[:TEST_IMAGES].clone(),
        "labels": test_set.labels[:TEST_IMAGES].to(torch.uint8),
    }
    save_file(tensors, path, metadata={"data_licence": DATA_LICENCE})


def read_split(folder: Path, name: str) -> Split:
    """Return the split called "train" or "t10k", as the data set's files name them."""
    pixels = read_idx(folder / f"{name}-images-idx3-ubyte.gz")
    labels = read_idx(folder / f"{name}-labels-idx1-ubyte.gz")
    return Split(pixels, labels.long())


def read_idx(path: Path) -> Tensor:
    """Return the uint8 array in a gzipped idx file, the format of the MNIST database."""
    with gzip.open(path) as file:
        data = file.read()
    if data[:3] != b"\x00\x00\x08":
        raise ValueError(f"{path} is not an idx file of bytes: it starts with {data[:4]!r}")
    dims = data[3]
    shape = np.frombuffer(data, ">u4", count=dims, offset=4).astype(int)
    values = np.frombuffer(data, np.uint8, offset=4 + 4 * dims)
    return torch.from_numpy(values.reshape(shape).copy())


def _batches(images: int, batch_size: int) -> Iterator[Tensor]:
    # A last batch of one or two images would spoil batch-norm's statistics, so it is left out.
    order = torch.randperm(images)
    for start in range(0, max(images - batch_size, 0) + 1, batch_size):
        yield order[start : start + batch_size]


def _augment(images: Tensor) -> Tensor:
    """Return images[n, 1, h, w], each moved by up to two pixels and mirrored half of the time."""
    count, _, height, width = images.shape
    blank = (0.0 - PIXEL_MEAN) / PIXEL_STD
    padded = nn.functional.pad(images, (2, 2, 2, 2), value=blank)
    rows = torch.randint(0, 5, (count, 1)) + torch.arange(height)
    columns = torch.randint(0, 5, (count, 1)) + torch.arange(width)
    mirrored = torch.rand(count) < 0.5
    columns[mirrored] = columns[mirrored].flip(1)
    which = torch.arange(count)[:, None, None]
    return padded[which, 0, rows[:, :, None], columns[:, None, :]].unsqueeze(1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--width", type=int, default=16, help="channels of the first stage")
    parser.add_argument("--out", type=Path, default=Path("qpc/assets"), help="folder to write to")
    parser.add_argument("--data", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    return parser


if __name__ == "__main__":
    main()

"""Prune the demo's ResNet-18 at several ratios by several criteria, fine-tune, and plot the result.

    python examples/accuracy_over_macs.py --data /usr/share/datasets/fashion-mnist --out results

Needs the whole of Fashion-MNIST (Debian: dataset-fashion-mnist) and, for the picture, matplotlib.
Writes accuracy_over_macs.json and .png to the output folder.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.nn import functional as F

import qpc
from qpc.assets import load_demo_model, normalise
from qpc.channels.cost import cost
from qpc.passes import ReestimateBatchNorm
from qpc.pruning.allocation import Allocation, Global, Uniform
from qpc.pruning.criteria import Criterion
from qpc.pruning.gradients import Taylor
from qpc.pruning.magnitude import FPGM, L1, BatchNormScale

BATCH = 128


@dataclass(frozen=True)
class Point:
    """One pruned model: which criterion, which share of MACs went, accuracy in per cent."""

    criterion: str
    ratio: float
    macs: int
    before_tuning: float
    after_tuning: float


@dataclass(frozen=True)
class Data:
    """Normalised images and labels."""

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor

    def batches(self, limit: int) -> Iterator[tuple[Tensor, Tensor]]:
        """The first `limit` training images in random order, flipped at random."""
        for picked in torch.randperm(min(limit, len(self.train))).split(BATCH):
            images = self.train[picked]
            flip = torch.rand(len(images), 1, 1, 1) < 0.5
            yield torch.where(flip, images.flip(3), images), self.train_labels[picked]


def criteria(data: Data) -> dict[str, Criterion]:
    """What is compared; Taylor looks at gradients on 512 training images."""

    def loss(output: Tensor, batch: tuple[Tensor, Tensor]) -> Tensor:
        return F.cross_entropy(output, batch[1])

    sample = [(data.train[i : i + 64], data.train_labels[i : i + 64]) for i in range(0, 512, 64)]
    return {
        "L1": L1(),
        "FPGM": FPGM(),
        "BatchNorm scale": BatchNormScale(),
        "Taylor": Taylor(batches=sample, loss=loss),
    }


def top1(gm: GraphModule, data: Data) -> float:
    """Accuracy on the test images, in per cent."""
    with torch.no_grad():
        classes = torch.cat([gm(images).argmax(1) for images in data.test.split(500)])
    return 100 * float((classes == data.test_labels).float().mean())


def fine_tune(gm: GraphModule, data: Data, *, epochs: int, images: int, rate: float) -> None:
    """Train a pruned graph in place; the rate falls to zero over the run."""
    steps = epochs * -(-min(images, len(data.train)) // BATCH)
    optimizer = torch.optim.SGD(
        gm.parameters(), lr=rate, momentum=0.9, weight_decay=5e-4, nesterov=True
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    qpc.set_training(gm)
    for _ in range(epochs):
        for inputs, labels in data.batches(images):
            loss = F.cross_entropy(gm(inputs), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    qpc.set_training(gm, mode=False)


def main() -> None:
    """Prune, repair, fine-tune and record every pair of criterion and ratio."""
    options = _parser().parse_args()
    torch.manual_seed(0)
    data = read_data(options.data)
    model, _ = load_demo_model()
    dense = qpc.trace(model, data.test[:1])
    base, full = top1(dense, data), cost(dense).macs
    print(f"dense: {full:,} MACs, top-1 {base:.2f} %")
    rules: dict[str, Callable[..., Allocation]] = {"global": Global, "uniform": Uniform}
    options.out.mkdir(parents=True, exist_ok=True)
    points: list[Point] = []
    for ratio, (name, criterion) in itertools.product(options.ratios, criteria(data).items()):
        gm = qpc.prune(dense, criterion, rules[options.rule](ratio, of="macs", target=None))
        gm = qpc.Pipeline((ReestimateBatchNorm(data.train[:1024].split(128)),)).run(gm)
        before = top1(gm, data)
        fine_tune(gm, data, epochs=options.epochs, images=options.images, rate=options.rate)
        points.append(Point(name, ratio, cost(gm).macs, before, top1(gm, data)))
        print(f"{points[-1]}", flush=True)
        record = {"dense": {"macs": full, "top1": base}, "points": [asdict(p) for p in points]}
        (options.out / "accuracy_over_macs.json").write_text(json.dumps(record, indent=1) + "\n")
    if importlib.util.find_spec("matplotlib") is not None:
        plot(points, full, base, options.out / "accuracy_over_macs.png")


def plot(points: list[Point], full: int, base: float, path: Path) -> None:
    """Accuracy after fine-tuning over the MACs that are left, a line for each criterion."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for name in dict.fromkeys(p.criterion for p in points):
        line = sorted((p.macs / 1e6, p.after_tuning) for p in points if p.criterion == name)
        axes.plot(*zip(*line, strict=True), marker="o", label=name)
    axes.axhline(base, color="grey", linestyle=":", label=f"dense, {full / 1e6:.1f} M MACs")
    axes.set(xlabel="MACs left (millions)", ylabel="top-1 after fine-tuning (%)")
    axes.set_title("ResNet-18 (width 16) on Fashion-MNIST, channels pruned")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def read_data(folder: Path) -> Data:
    """The whole data set, as the demo's model wants it."""
    reader = _training_script()
    train, test = reader.read_split(folder, "train"), reader.read_split(folder, "t10k")
    return Data(normalise(train.pixels), train.labels, normalise(test.pixels), test.labels)


def _training_script() -> ModuleType:
    """The script that trained the model reads the same files."""
    path = Path(__file__).with_name("train_fashion_mnist.py")
    spec = importlib.util.spec_from_file_location("train_fashion_mnist", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"cannot load {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for the names of their fields' types
    spec.loader.exec_module(module)
    return module


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--out", type=Path, default=Path("results"))
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.3, 0.5, 0.6, 0.7, 0.8, 0.9])
    parser.add_argument("--rule", choices=["global", "uniform"], default="uniform")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--images", type=int, default=60_000, help="training images an epoch")
    parser.add_argument("--rate", type=float, default=0.02)
    return parser


if __name__ == "__main__":
    main()

"""Reproduce the textbook's table of compression, in int8 machine code: ResNet-18 on small images.

    python examples/compress_image_classifier.py --data /usr/share/datasets/fashion-mnist --out runs

Baseline, rounding after training and with training at 8 and 4 bits, pruning, both together, with
and without a teacher; and with `--orders` the six orders of pruning, training with rounded values
and distillation, at equal epochs. Needs the whole of Fashion-MNIST (Debian: dataset-fashion-mnist),
for which the weights come with QPC, or a folder with the binary version of CIFAR-10, for which a
model is trained first. Every line is a run of `qpc.compress` in a folder of its own: stopped at any
moment, the same command goes on. `--rows` picks lines, `--scale` multiplies all epochs.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

import qpc
from qpc.assets import load_demo_model, normalise
from qpc.compression.classification import Classification
from qpc.compression.result import Row
from qpc.compression.samples import TensorSamples
from qpc.facts import INTEGER
from qpc.models import resnet18
from qpc.quant.config import QuantConfig

BATCH = 128
CHECKED = 500  # images on which machine code is compared with the integer graph, value by value
CIFAR_MEAN, CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
BASELINE = {"kind": "fine-tune", "epochs": 12, "learning_rate": 0.1}

Steps = list[dict[str, Any] | str]


@dataclass(frozen=True)
class Line:
    """One line of the table: its name and the steps from the trained model to it."""

    name: str
    steps: Steps = field(repr=False)


class Judge:
    """Accuracy on all test images, in per cent; of integers in machine code, which is quicker."""

    def __init__(self, samples: TensorSamples) -> None:
        self.samples = samples
        self.differing = 0

    def __call__(self, gm: GraphModule) -> float:
        model: Any = gm
        if INTEGER.violation(gm) is None:
            model = qpc.compile(gm, batch_sizes=(BATCH,))
            some = self.samples.values[: CHECKED - CHECKED % BATCH]
            answers = torch.cat([torch.as_tensor(model(x)) for x in some.split(BATCH)])
            self.differing += int((answers != torch.cat([gm(x) for x in some.split(BATCH)])).sum())
        right = 0
        for numbers in torch.arange(len(self.samples.labels)).split(BATCH):
            images = self.samples.inputs(numbers)
            full = torch.cat([images, images[:1].expand(BATCH - len(images), *images.shape[1:])])
            with torch.no_grad():
                answer = torch.as_tensor(model(full))[: len(images)]
            right += int((answer.argmax(1) == self.samples.labels[numbers]).sum())
        return 100 * right / len(self.samples.labels)


def main(argv: Sequence[str] | None = None) -> None:
    """Make all lines that are asked for, and print and write the table."""
    options = _parser().parse_args(argv)
    torch.set_num_threads(options.threads)
    training, test, model = load(options.data)
    task = Classification(training, test, batch_size=BATCH, flip=True)
    if model is None:
        model = trained(task, test, options)
    chosen = [
        line for line in lines(options.scale, orders=options.orders) if _wanted(line, options)
    ]
    found: dict[str, Row] = {}
    for line in chosen:
        row, differing = run(line, model, task, test, options)
        found[line.name] = row
        print(f"{line.name}: {row.metric:.2f} %, {differing} values differ", flush=True)
    text = table(found)
    print(text)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "table.md").write_text(text, encoding="utf-8")


# --- the lines ------------------------------------------------------------------------------------


def lines(scale: float, *, orders: bool) -> list[Line]:
    """All lines of the table; `scale`: of the epochs."""

    def train(kind: str, epochs: float, rate: float, **settings: object) -> dict[str, Any]:
        count = max(round(epochs * scale), 1)
        return {"kind": kind, "epochs": count, "learning_rate": rate, **settings}

    def qat(weights: int, activations: int, epochs: float, rate: float, **more: object) -> Any:
        return train("qat", epochs, rate, config=bits(weights, activations), **more)

    def pruned(share: float, epochs: float, **more: object) -> Steps:
        fine_tune = train("fine-tune", epochs, 0.05, **more)
        return [prune(share), "reestimate-batch-norm", fine_tune]

    taught = {"distil": {"logits": 1.0, "temperature": 4.0}}
    found = [Line("float", ["remove-identities"])]
    for w, a in ((8, 8), (4, 8), (4, 4)):
        found.append(Line(f"W{w}A{a}, after training", [quantize(w, a)]))
    found += [
        Line("W8A8, QAT", [qat(8, 8, 1, 0.003)]),
        Line("W4A8, QAT", [qat(4, 8, 2, 0.01)]),
        Line("W4A4, QAT", [qat(4, 4, 3, 0.02)]),
        Line("W4A4, QAT, distilled", [qat(4, 4, 3, 0.02, **taught)]),
    ]
    for share, epochs in ((0.5, 3), (0.75, 5)):
        steps = pruned(share, epochs, **taught)
        name = f"{share:.0%} of MACs pruned"
        found += [
            Line(f"{name}, float", steps),
            Line(f"{name}, W8A8 QAT", [*steps, qat(8, 8, 1, 0.003, **taught)]),
        ]
    stages = {
        "prune": pruned(0.5, 1),
        # Batch norms stay what they are, as what comes behind may prune and train at a higher rate.
        "QAT": [qat(8, 8, 1, 0.01, batch_norm="simulated")],
        "distil": [train("fine-tune", 1, 0.01, **taught)],
    }
    for order in itertools.permutations(stages) if orders else ():
        found.append(Line(" -> ".join(order), [s for stage in order for s in stages[stage]]))
    return found


def bits(weights: int, activations: int) -> dict[str, Any]:
    """A configuration with the first and the last layer at 8 bits."""
    config = QuantConfig.of_bits(weights, activations, first_and_last=8)
    return config.model_dump(mode="json", exclude_none=True)


def quantize(weights: int, activations: int) -> dict[str, Any]:
    """The step that rounds after training."""
    return {"kind": "quantize", "config": bits(weights, activations)}


def prune(share: float) -> dict[str, Any]:
    """The step that removes channels."""
    allocation = {"kind": "global", "amount": share, "of": "macs"}
    return {"kind": "prune", "criterion": "l1", "allocation": allocation}


def run(
    line: Line,
    model: nn.Module,
    task: Classification,
    test: TensorSamples,
    options: argparse.Namespace,
) -> tuple[Row, int]:
    """Make one line, or go on with it; how many values of the machine code differ."""
    recipe = {"metric": "accuracy, %", "start": line.steps, "compile": {"target": "native"}}
    judge = Judge(test)
    result = qpc.compress(
        model,
        recipe,
        train=task.train,
        evaluate=judge,
        batches=task.batches,
        out=options.out / _file_name(line.name),
        progress=sys.stderr.isatty(),
    )
    return result.best, judge.differing


def _file_name(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name.lower())


def table(found: dict[str, Row]) -> str:
    """All lines as Markdown."""
    head = ["model", "accuracy, %", "MACs", "kB", "ms"]
    rows = [" | ".join(head), " | ".join("---" for _ in head)]
    for name, row in found.items():
        time = "" if row.latency_ms is None else f"{row.latency_ms:.3f}"
        rows.append(f"{name} | {row.metric:.2f} | {row.macs:,} | {row.bytes / 1000:,.0f} | {time}")
    return "".join(f"| {row} |\n" for row in rows)


# --- data -----------------------------------------------------------------------------------------


def load(folder: Path) -> tuple[TensorSamples, TensorSamples, nn.Module | None]:
    """Training and test images, and the trained model where there is one."""
    if (folder / "train-images-idx3-ubyte.gz").exists():
        splits = (read_fashion(folder, name) for name in ("train", "t10k"))
        return next(splits), next(splits), load_demo_model()[0]
    if (folder / "data_batch_1.bin").exists():
        names = [f"data_batch_{number}.bin" for number in range(1, 6)]
        return read_cifar(folder, names), read_cifar(folder, ["test_batch.bin"]), None
    raise SystemExit(
        f"{folder} holds neither Fashion-MNIST (train-images-idx3-ubyte.gz, ...) "
        "nor the binary version of CIFAR-10 (data_batch_1.bin, ...)"
    )


def read_fashion(folder: Path, name: str) -> TensorSamples:
    """Fashion-MNIST's files, in the format of the MNIST database."""
    with gzip.open(folder / f"{name}-images-idx3-ubyte.gz") as file:
        pixels = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28)
    with gzip.open(folder / f"{name}-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(), np.uint8, offset=8)
    return TensorSamples(
        normalise(torch.from_numpy(pixels.copy())), torch.from_numpy(labels.copy()).long()
    )


def read_cifar(folder: Path, names: Sequence[str]) -> TensorSamples:
    """CIFAR-10's binary files: a byte for the class, then 3 x 32 x 32 bytes, for each image."""
    size = 3 * 32 * 32
    parts = [np.fromfile(folder / name, np.uint8).reshape(-1, 1 + size) for name in names]
    data = torch.from_numpy(np.concatenate(parts))
    mean, std = (torch.tensor(v).reshape(3, 1, 1) for v in (CIFAR_MEAN, CIFAR_STD))
    images: Tensor = (data[:, 1:].reshape(-1, 3, 32, 32).float() / 255 - mean) / std
    return TensorSamples(images, data[:, 0].long())


def trained(task: Classification, test: TensorSamples, options: argparse.Namespace) -> nn.Module:
    """A model trained from nothing."""
    torch.manual_seed(0)
    model = resnet18(width=options.width, stem="cifar", in_channels=3, classes=10)
    result = qpc.compress(
        model,
        {"start": [BASELINE]},
        train=task.train,
        evaluate=Judge(test),
        batches=task.batches,
        out=options.out / "baseline",
        progress=sys.stderr.isatty(),
    )
    return result.model


def _wanted(line: Line, options: argparse.Namespace) -> bool:
    return not options.rows or any(fnmatchcase(line.name, name) for name in options.rows)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--out", type=Path, default=Path("runs"), help="folder of all runs")
    parser.add_argument("--rows", nargs="*", default=[], help="lines, by name or shell pattern")
    parser.add_argument("--orders", action="store_true", help="the six orders of three stages, too")
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies all epochs")
    parser.add_argument("--width", type=int, default=16, help="of a model that is trained first")
    parser.add_argument("--threads", type=int, default=1)
    return parser


if __name__ == "__main__":
    main()

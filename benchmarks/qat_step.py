"""What a step of training with rounded values costs, over the step of the same graph in float.

    python -m benchmarks.qat_step [--network resnet18] [--batch 32] [--rounds 3] [--json steps.json]

A step is forward, loss, backward and one update of SGD with momentum. The steps take turns, and
ratios are of processor time within one round, which leaves out what other programs had of the core.
"memory" is what the forward pass keeps for the backward pass, which is what grows with the batch.

float        the traced graph, with its batch norms in training
folded       qpc.prepare_qat: batch norms folded, all scales learned
simulated    batch_norm="simulated": batch norms train, all scales learned
frozen       batch norms folded, the grids of the calibration kept
moving       batch norms folded, ranges follow the values
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

import qpc
from qpc.models import resnet18
from qpc.passes import FollowRanges

_CLASSES = 10


@dataclass(frozen=True)
class Ratios:
    """One way of training over float: processor time, wall time, and memory kept for backward."""

    network: str
    batch: int
    way: str
    cpu: float
    wall: float
    memory: float
    float_ms: float


def mobilenet_v2() -> nn.Module:
    """MobileNetV2 with random weights."""
    from benchmarks.real_models import torchvision_models

    model: nn.Module = torchvision_models().mobilenet_v2(num_classes=_CLASSES)
    return model


NETWORKS: Mapping[str, tuple[Callable[[], nn.Module], tuple[int, int, int]]] = {
    "resnet18": (
        lambda: resnet18(width=32, stem="cifar", in_channels=1, classes=_CLASSES),
        (1, 28, 28),
    ),
    "mobilenet_v2": (mobilenet_v2, (3, 64, 64)),
}


def graphs(model: nn.Module, images: Tensor, ways: tuple[str, ...]) -> dict[str, GraphModule]:
    """The graph of each way of training, in training mode."""
    gm = qpc.trace(model.eval(), images[:2])
    batches = [images[:8]]
    made: dict[str, Callable[[], GraphModule]] = {
        "float": lambda: gm,
        "folded": lambda: qpc.prepare_qat(gm, batches),
        "simulated": lambda: qpc.prepare_qat(gm, batches, batch_norm="simulated"),
        "frozen": lambda: qpc.prepare_qat(gm, batches, learn=None),
        "moving": lambda: qpc.prepare_qat(gm, batches, learn=FollowRanges()),
    }
    return {way: qpc.set_training(made[way]()) for way in reversed(ways)}


def step_of(gm: GraphModule, images: Tensor, goals: Tensor) -> Callable[[], None]:
    """One step of training."""
    optimizer = torch.optim.SGD(gm.parameters(), lr=1e-4, momentum=0.9)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(gm(images), goals).backward()
        optimizer.step()

    return step


def kept_bytes(gm: GraphModule, images: Tensor) -> int:
    """What one forward pass keeps for the backward pass, but for parameters."""
    own = {t.untyped_storage().data_ptr() for t in (*gm.parameters(), *gm.buffers())}
    kept: dict[int, Tensor] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = tensor  # held, so that no other takes its place
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        result = gm(images)
    del result
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def timed(step: Callable[[], None]) -> tuple[float, float]:
    """Processor and wall seconds."""
    cpu, wall = time.process_time(), time.perf_counter()
    step()
    return time.process_time() - cpu, time.perf_counter() - wall


def measure(network: str, batch: int, ways: tuple[str, ...], rounds: int) -> list[Ratios]:
    """The ratios of every way to the first of them, which is float."""
    torch.manual_seed(0)
    make, shape = NETWORKS[network]
    images, goals = torch.randn(batch, *shape), torch.randint(_CLASSES, (batch,))
    trained = graphs(make(), images, ways)
    memory = {way: kept_bytes(gm, images) for way, gm in trained.items()}
    steps = {way: step_of(gm, images, goals) for way, gm in trained.items()}
    for step in steps.values():
        step()
    times: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way in ways:
            times[way].append(timed(steps[way]))
    base, found = ways[0], []
    for way in ways[1:]:
        pairs = list(zip(times[way], times[base], strict=True))
        cpu, wall = (statistics.median(a[i] / b[i] for a, b in pairs) for i in (0, 1))
        float_ms = statistics.median(cpu for cpu, _ in times[base]) * 1e3
        found.append(Ratios(network, batch, way, cpu, wall, memory[way] / memory[base], float_ms))
    return found


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--network", choices=NETWORKS, action="append")
    parser.add_argument("--batch", type=int, action="append")
    parser.add_argument("--way", action="append")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    ways = ("float", *(asked.way or ("folded", "simulated", "frozen", "moving")))
    found = []
    for network in asked.network or NETWORKS:
        for batch in asked.batch or (32, 128):
            for each in measure(network, batch, ways, asked.rounds):
                found.append(each)
                print(
                    f"{network} batch {batch} {each.way:10} time {each.cpu:.2f}x (wall "
                    f"{each.wall:.2f}x, float {each.float_ms:.0f} ms), memory {each.memory:.2f}x"
                )
    if asked.json:
        asked.json.write_text(json.dumps([asdict(each) for each in found], indent=2))


if __name__ == "__main__":
    main()

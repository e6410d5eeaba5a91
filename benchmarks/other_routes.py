"""The route through QPC beside PyTorch's own, in one script: train with rounding, prune, deploy.

    python -m benchmarks.other_routes --steps 200
    python -m benchmarks.other_routes --quick

Both start from the demonstration's ResNet-18 for Fashion-MNIST, see the same batches in the same
order under the same optimizer, and are judged on the same test images by what they deploy:

- `qpc.prepare_qat`, `qpc.convert` and `qpc.compile`;
- torchao's PT2E: `prepare_qat_pt2e` with the quantizer for x86, `convert_pt2e`, and then its
  lowering through Inductor; where that fails, the converted graph as it is, and the table says so;
- `qpc.prune`, and Torch-Pruning at the same share of multiplications, each followed by its route.

Latency is the least of many calls on one image by one thread, the models called in turns. Needs
torchao and torch-pruning, see requirements-models.txt.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

import qpc
from examples.train_fashion_mnist import Split, read_split
from qpc.assets import load_demo_model, normalise
from qpc.explanation.inspection import inspect_graph
from qpc.pruning.allocation import Global
from qpc.pruning.magnitude import L1

BATCH = 64
LEFT = 0.5  # share of the multiplications that pruning leaves
Function = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Settings:
    """How much is done.

    steps: of training; pruned models are trained so long in float first. test: images to judge on.
    """

    steps: int
    test: int
    rate: float = 0.01


@dataclass
class Deployed:
    """What one route ends in.

    bytes: of the tensors that the deployed graph uses. macs: of one image. how: what runs it.
    """

    route: str
    function: Function
    bytes: int
    macs: int
    how: str
    accuracy: float = 0.0
    latency_s: float = float("inf")


@dataclass(frozen=True)
class Data:
    """Training images, and those to judge on."""

    train: Split
    test: Split

    def batches(self, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Normalised images and labels, the same ones in every run."""
        generator = torch.Generator().manual_seed(0)
        for _ in range(steps):
            chosen = torch.randint(len(self.train.labels), (BATCH,), generator=generator)
            yield normalise(self.train.pixels[chosen]), self.train.labels[chosen]

    def calibration(self) -> list[Tensor]:
        """Normalised images to find ranges with."""
        return list(normalise(self.train.pixels[:256]).split(BATCH))


def fit(model: nn.Module, data: Data, settings: Settings) -> None:
    """Train in place: SGD, with a rate that falls to nothing along a cosine."""
    optimizer = torch.optim.SGD(model.parameters(), lr=settings.rate, momentum=0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(settings.steps, 1))
    for images, labels in data.batches(settings.steps):
        loss = nn.functional.cross_entropy(model(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def accuracy(function: Function, test: Split) -> float:
    """The share of the test images whose largest logit is the label's."""
    right = 0
    with torch.no_grad():
        for pixels, labels in zip(test.pixels.split(1), test.labels.split(1), strict=True):
            right += int((function(normalise(pixels)).argmax(1) == labels).sum())
    return right / len(test.labels)


def macs_of(model: nn.Module) -> int:
    """Multiplications of one image, as QPC counts them for both tools."""
    return inspect_graph(qpc.trace(copy.deepcopy(model).eval(), torch.zeros(2, 1, 28, 28))).macs


def bytes_of(gm: GraphModule) -> int:
    """Bytes of the tensors that a graph uses.

    PT2E keeps the weights from before the conversion beside them, which nothing reads any more.
    """
    tensors = gm.state_dict()
    used = {str(node.target) for node in gm.graph.nodes if node.op == "get_attr"}
    return sum(tensors[name].numel() * tensors[name].element_size() for name in used)


# --- QPC ------------------------------------------------------------------------------------------


def through_qpc(route: str, model: nn.Module, data: Data, settings: Settings) -> Deployed:
    """Train with rounding, convert and compile."""
    gm = qpc.trace(model.eval(), torch.zeros(2, 1, 28, 28))
    return _deployed_by_qpc(route, gm, data, settings)


def pruned_by_qpc(route: str, model: nn.Module, data: Data, settings: Settings) -> Deployed:
    """Prune to the share of multiplications, train in float, then as above."""
    gm = qpc.trace(model.eval(), torch.zeros(2, 1, 28, 28))
    pruned = qpc.prune(gm, L1(), Global(1.0 - LEFT, of="macs"))
    fit(pruned, data, settings)
    return _deployed_by_qpc(route, pruned, data, settings)


def _deployed_by_qpc(route: str, gm: GraphModule, data: Data, settings: Settings) -> Deployed:
    prepared = qpc.prepare_qat(gm, data.calibration())
    qpc.set_training(prepared)
    fit(prepared, data, settings)
    qpc.set_training(prepared, mode=False)
    integers = qpc.convert(prepared)
    compiled = qpc.compile(integers)
    found = inspect_graph(integers)
    how = "qpc.compile"
    return Deployed(route, compiled, bytes_of(integers), found.macs, how)


# --- PyTorch's route ------------------------------------------------------------------------------


def through_pt2e(route: str, model: nn.Module, data: Data, settings: Settings) -> Deployed:
    """Train with PT2E's fake quantization, convert, and lower it through Inductor."""
    pt2e = importlib.import_module("torchao.quantization.pt2e")
    steps = importlib.import_module("torchao.quantization.pt2e.quantize_pt2e")
    x86 = importlib.import_module("torchao.quantization.pt2e.quantizer.x86_inductor_quantizer")
    macs, example = macs_of(model), torch.zeros(2, 1, 28, 28)
    batch = {0: torch.export.Dim("batch", min=1, max=1024)}
    # Only this form is taken by the quantizer: others have partitions with two outputs for it.
    form = torch.export.export(model.eval(), (example,), dynamic_shapes=(batch,), strict=True)
    exported = form.module()
    quantizer = x86.X86InductorQuantizer()
    quantizer.set_global(x86.get_default_x86_inductor_quantization_config(is_qat=True))
    prepared = steps.prepare_qat_pt2e(exported, quantizer)
    pt2e.move_exported_model_to_train(prepared)
    fit(prepared, data, settings)
    converted = steps.convert_pt2e(prepared)
    pt2e.move_exported_model_to_eval(converted)
    size = bytes_of(converted)
    function, how = _lowered(converted)
    return Deployed(route, function, size, macs, how)


def _lowered(converted: nn.Module) -> tuple[Function, str]:
    """The fastest form of a converted graph that runs on this machine, and its name."""
    inductor: Any = importlib.import_module("torch._inductor.config")
    image = torch.zeros(1, 1, 28, 28)
    inductor.freezing = True
    try:
        with torch.no_grad():
            compiled = torch.compile(converted)
            compiled(image)
    except Exception as e:  # whatever fails in a compiler of another project
        return converted, f"eager, for Inductor fails: {str(e).splitlines()[0][:60]}"
    return compiled, "torch.compile, int8 by Inductor"


def pruned_by_torch_pruning(
    route: str, model: nn.Module, data: Data, settings: Settings
) -> Deployed:
    """Prune with Torch-Pruning to the same share of multiplications, then PT2E."""
    count = importlib.import_module("torch_pruning").utils.count_ops_and_params
    image = torch.zeros(1, 1, 28, 28)
    target = LEFT * count(model.eval(), image)[0]
    low, high = 0.0, 0.9
    for _ in range(8):  # the share of channels that leaves this many multiplications
        middle = (low + high) / 2
        if count(_torch_pruned(model, middle), image)[0] > target:
            low = middle
        else:
            high = middle
    pruned = _torch_pruned(model, high)
    pruned.train()
    fit(pruned, data, settings)
    return through_pt2e(route, pruned, data, settings)


def _torch_pruned(model: nn.Module, share: float) -> nn.Module:
    tools = importlib.import_module("torch_pruning")
    made = copy.deepcopy(model).eval()
    last = [m for m in made.modules() if isinstance(m, nn.Linear)]
    pruner = tools.pruner.MagnitudePruner(
        made,
        torch.zeros(1, 1, 28, 28),
        importance=tools.importance.MagnitudeImportance(p=1),
        pruning_ratio=share,
        global_pruning=True,
        max_pruning_ratio=0.9,
        ignored_layers=last,
    )
    pruner.step()
    return made


# --- the table ------------------------------------------------------------------------------------

ROUTES: dict[str, Callable[[str, nn.Module, Data, Settings], Deployed]] = {
    "QPC": through_qpc,
    "torchao PT2E": through_pt2e,
    "QPC, pruned": pruned_by_qpc,
    "Torch-Pruning + PT2E": pruned_by_torch_pruning,
}


def time_in_turns(models: Sequence[Deployed], rounds: int) -> None:
    """Fill in the least latency of each model, called in turns on one image."""
    image = torch.zeros(1, 1, 28, 28)
    with torch.no_grad():
        for _ in range(rounds):
            for model in models:
                model.function(image)
                begun = time.perf_counter()
                model.function(image)
                model.latency_s = min(model.latency_s, time.perf_counter() - begun)


def compared(data: Data, settings: Settings) -> list[Deployed]:
    """All routes, judged."""
    found = []
    for name, route in ROUTES.items():
        torch.manual_seed(0)
        made = route(name, load_demo_model()[0], data, settings)
        made.accuracy = accuracy(made.function, data.test)
        print(line(made), flush=True)
        found.append(made)
    time_in_turns(found, rounds=300)
    return found


def line(made: Deployed) -> str:
    """One line of the table."""
    return (
        f"| {made.route} | {made.accuracy:.2%} | {made.bytes / 1e3:.0f} kB"
        f" | {made.macs / 1e6:.1f} M | {made.latency_s * 1e3:.2f} ms | {made.how} |"
    )


def main(argv: Sequence[str] | None = None) -> list[Deployed]:
    """Compare, and print a table in Markdown."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--steps", type=int, default=300, help=f"of {BATCH} images")
    parser.add_argument("--test", type=int, default=10_000, help="images to judge on")
    parser.add_argument("--quick", action="store_true", help="a few steps, a few images")
    parser.add_argument("--data", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    settings = Settings(*((4, 100) if options.quick else (options.steps, options.test)))
    test = read_split(options.data, "t10k")
    test = Split(test.pixels[: settings.test], test.labels[: settings.test])
    found = compared(Data(read_split(options.data, "train"), test), settings)
    print("\n| route | accuracy | bytes | MACs | latency | runs as |\n|---|---|---|---|---|---|")
    print("\n".join(map(line, found)))
    return found


if __name__ == "__main__":
    main()

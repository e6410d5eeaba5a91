"""What quantizing costs, in CPU time, and what running the integer reference does.

    python -m benchmarks.quantizing
    python -m benchmarks.quantizing --network vit_b_16 --images 32

Prints the CPU seconds of every pass of `qpc.quantize` and their ratio to the float passes that the
data takes at least: one over all images. Then the time of the integer reference as a multiple of
that of the float network. Ratios, since both depend on the machine; the weights are random, which
does not matter for time. To compare two versions, run it with each in turns. Needs torchvision.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

import qpc
from benchmarks.real_models import torchvision_models
from qpc.base import Pass, PassContext, PassReport

SIZE = 224
BATCH = 16


@dataclass(repr=False)
class Timed(PassContext):
    """Takes down the CPU seconds of each pass."""

    begun: float = field(default_factory=time.process_time)
    spent: dict[str, float] = field(default_factory=dict)

    def finish(self, pass_: Pass, *, seconds: float, changed: bool) -> PassReport:
        """Close the remarks of one pass."""
        now = time.process_time()
        self.spent[pass_.name] = now - self.begun
        self.begun = now
        return super().finish(pass_, seconds=seconds, changed=changed)


def network(name: str) -> nn.Module:
    """A torchvision classifier with random weights, in eval mode."""
    torch.manual_seed(0)
    model: nn.Module = torchvision_models().get_model(name, weights=None)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0.0, 0.1)
            module.running_var.uniform_(0.5, 2.0)
    return model.eval()


def cpu_seconds(function: Callable[[], object], calls: int = 1) -> float:
    """The least CPU time of some calls."""
    spent = []
    for _ in range(calls):
        begun = time.process_time()
        function()
        spent.append(time.process_time() - begun)
    return min(spent)


def measure(name: str, images: Tensor) -> None:
    """Print all figures of one network."""
    model, batches = network(name), list(images.split(BATCH))
    gm = qpc.trace(model, (images[:2],), check=False)
    with torch.no_grad():
        once = cpu_seconds(lambda: [model(part) for part in images.split(4)])
    ctx = Timed()
    integers = qpc.quantize(gm, batches, ctx=ctx)
    total = sum(ctx.spent.values())
    print(f"{name}: {len(images)} images, {once:.1f} s in float")
    for pass_name, seconds in ctx.spent.items():
        print(f"  {pass_name:20s} {seconds:6.2f} s")
    print(f"  qpc.quantize         {total:6.2f} s, {total / once:.2f} times the float passes")
    few = images[:4]
    with torch.no_grad():
        plain = cpu_seconds(lambda: model(few), 5)
        exact = cpu_seconds(lambda: integers(few), 5)
    print(f"  integer reference    {exact / plain:.2f} times float, on {len(few)} images")


def main(argv: Sequence[str] | None = None) -> None:
    """Measure the networks that are asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--network", nargs="+", default=["mobilenet_v2", "resnet18"])
    parser.add_argument("--images", type=int, default=64)
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    images = torch.randn(options.images, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    for name in options.network:
        measure(name, images)


if __name__ == "__main__":
    main()

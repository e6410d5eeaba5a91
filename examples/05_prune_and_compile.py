"""Prune 30 % of the work out of a trained ResNet-18, repair it without labels, quantize, compile.

Uses only what is in the package. `accuracy_over_macs.py` beside this file fine-tunes on the whole
data set, for several ratios and criteria.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.fx import GraphModule

import qpc
from qpc.assets import load_demo_images, load_demo_model
from qpc.passes import ReestimateBatchNorm
from qpc.pruning.allocation import Global
from qpc.pruning.magnitude import L1

TEST_IMAGES = 500


def top1(gm: GraphModule, images: Tensor, labels: Tensor) -> float:
    """The share of images that a graph gets right, in per cent."""
    with torch.no_grad():
        return 100 * float((gm(images).argmax(1) == labels).float().mean())


def main() -> None:
    """Prune, repair, quantize, compile; say after each step what is left."""
    model, _ = load_demo_model()
    images = load_demo_images()
    test, labels = images.test[:TEST_IMAGES], images.labels[:TEST_IMAGES]
    batches = images.calibration[:256].split(64)
    dense = qpc.trace(model, test[:1])

    # Remove the channels with the smallest weights until 30 % of the multiplications are gone. How
    # many of each layer is chosen for this CPU, whose vectors hold several channels at a time;
    # `Global(0.3, of="macs", target="x86-64-avx512-vnni")` would choose for another one.
    ctx = qpc.PassContext()
    pruned = qpc.prune(dense, L1(), Global(0.3, of="macs"), ctx=ctx)
    for report in ctx.reports:
        print(f"{report.name:16} {report.summary}")

    # Pruning shifts the statistics of batch norms; measuring them anew needs no labels.
    repaired = qpc.Pipeline((ReestimateBatchNorm(batches),)).run(pruned)
    for name, gm in (("dense", dense), ("pruned", pruned), ("repaired", repaired)):
        print(f"{name:9} top-1 {top1(gm, test, labels):5.1f} %")
    print(str(qpc.pruning_report(dense, pruned)).splitlines()[-1])

    # A pruned graph is an ordinary graph: it quantizes and compiles like any other.
    forms = {"dense": dense, "pruned": repaired}
    times = {}
    for name, gm in forms.items():
        int8 = qpc.quantize(gm, batches)
        times[name] = qpc.compile(int8).benchmark().median_ms
    print(f"int8 machine code is {times['dense'] / times['pruned']:.2f} times as fast as before")


if __name__ == "__main__":
    main()

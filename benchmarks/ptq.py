"""What the methods that keep accuracy at few bits are worth, on trained networks.

    python -m benchmarks.ptq [--network demo] [--network mobilenet_v2] [--network stress]
                             [--bits 4] [--effort best] [--every 4]

Weights have the given bits and activations 8. The demonstration's network is judged on images of
its test set, MobileNetV2 on photographs (requirements-models.txt lists the packages), by the
signal-to-noise ratio of the logits and by how often integers and float agree on the first class.
The stress networks (`benchmarks.stress_networks`) are judged by their accuracy. Fake-quantized
graphs are measured, which are the integer graphs up to a step here and there.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.fx import GraphModule

import qpc
from benchmarks.stress_networks import Stress, loud_background, loud_images, uneven_channels
from qpc.assets import load_demo_images, load_demo_model
from qpc.base import Pass, PassContext
from qpc.effort import EFFORTS, best_quantization
from qpc.facts import CORE_FORM, FAKE_QUANTIZED
from qpc.passes import (
    CompensateRounding,
    CorrectBias,
    EqualizeWeights,
    FitWeightScales,
    LearnRounding,
    MatchMoments,
)
from qpc.pipeline import Pipeline
from qpc.quant.config import LayerConfig, QuantConfig, WeightConfig
from qpc.recipes import post_training_quantization

NETWORKS = ("demo", "mobilenet_v2", "efficientnet_lite0", "stress")


def main(arguments: Sequence[str]) -> None:
    """Measure what the command line asks for, and print a line for each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--network", choices=NETWORKS, action="append")
    parser.add_argument("--bits", type=int, action="append", help="of weights")
    parser.add_argument("--effort", choices=EFFORTS, action="append")
    parser.add_argument("--every", type=int, default=1, help="judge by every so-manieth image")
    options = parser.parse_args(arguments)
    for network in options.network or ("demo", "stress"):
        if network == "stress":
            for bits in options.bits or (4,):
                measure_stress(bits)
            continue
        gm, batches, images = subject(network, options.every)
        for bits in options.bits or (8, 4):
            for effort in options.effort or EFFORTS:
                measure(network, gm, batches, images, bits, effort)


def subject(network: str, every: int) -> tuple[GraphModule, list[Tensor], Tensor]:
    """A traced network, batches to calibrate on, and images to judge by."""
    if network == "demo":
        model, _ = load_demo_model()
        data = load_demo_images()
        images = data.test[::every]
        return qpc.trace(model, images[:1]), list(data.calibration.split(64)), images
    from benchmarks.accuracy import Subject  # needs packages that few have
    from benchmarks.real_models import NETWORKS as REAL

    found = Subject(REAL[network])
    return found.gm, list(found.calibration.split(8)), found.images[::every]


def measure(
    network: str,
    gm: GraphModule,
    batches: list[Tensor],
    images: Tensor,
    bits: int,
    effort: str,
) -> None:
    """Quantize with an effort, judge by the logits, and print what was chosen."""
    ctx, start = PassContext(), time.perf_counter()
    made = quantized(gm, batches, config(bits), effort, ctx)
    seconds = time.perf_counter() - start
    wanted, found = (run(graph, images) for graph in (gm, made))
    noise = (found - wanted).double().square().sum()
    sqnr = float(10.0 * torch.log10(wanted.double().square().sum() / noise))
    agreement = float((found.argmax(1) == wanted.argmax(1)).double().mean())
    print(
        f"{network:<20}W{bits}A8  {effort:<8} {sqnr:6.2f} dB  agreement {agreement:.3f} of "
        f"{len(images)}  {seconds:7.1f} s",
        flush=True,
    )
    for report in ctx.reports:
        if report.name.startswith("choose-"):
            print(f"    {report.name}: {report.summary}")


def quantized(
    gm: GraphModule, batches: list[Tensor], how: QuantConfig, effort: str, ctx: PassContext
) -> GraphModule:
    """The fake-quantized graph."""
    if effort == "best":
        return best_quantization(gm, batches, how, ctx)
    return post_training_quantization(batches, how, effort=effort).run(gm, ctx)


def config(bits: int, *, per_channel: bool = True) -> QuantConfig:
    """Weights of so many bits, everything else by default."""
    weight = WeightConfig(bits=bits, per_channel=per_channel)
    return QuantConfig(default=LayerConfig(weight=weight))


def run(gm: GraphModule, images: Tensor) -> Tensor:
    """Logits of all images, in batches."""
    with torch.no_grad():
        return torch.cat([gm(batch) for batch in images.split(8)])


# --- stress networks ------------------------------------------------------------------------------


def measure_stress(bits: int) -> None:
    """Each method alone on the networks that rounding to nearest fails on."""
    for make in (loud_background, loud_images):
        stress = make()
        gm, batches = qpc.trace(stress.model, stress.images[:2]), list(stress.calibration.split(32))
        fast = post_training_quantization(batches, config(bits), effort="fast").run(gm)
        methods: dict[str, tuple[Pass, ...]] = {
            "to nearest": (),
            "CorrectBias": (CorrectBias(batches, 128),),
            "CorrectBias(full=True)": (CorrectBias(batches, 128, full=True),),
            "FitWeightScales": (FitWeightScales(batches, 128),),
            "MatchMoments": (MatchMoments(batches, 128),),
            "CompensateRounding": (CompensateRounding(batches, 128),),
            "LearnRounding": (LearnRounding(batches, 128),),
        }
        print(f"{make.__name__}, weights of {bits} bits: float {stress.accuracy(stress.model):.1f}")
        for name, passes in methods.items():
            known = frozenset({CORE_FORM, FAKE_QUANTIZED})
            made = Pipeline(passes, known).run(fast) if passes else fast
            print(f"    {name:<24}{stress.accuracy(made):6.1f}", flush=True)
    _measure_uneven(uneven_channels())


def _measure_uneven(stress: Stress) -> None:
    gm, batches = qpc.trace(stress.model, stress.images[:2]), list(stress.calibration.split(32))
    print(f"uneven_channels, one scale for all: float {stress.accuracy(stress.model):.1f}")
    one_scale = config(8, per_channel=False)
    for name, graph in (
        ("as they are", gm),
        ("EqualizeWeights", Pipeline((EqualizeWeights(),)).run(gm)),
    ):
        made = post_training_quantization(batches, one_scale).run(graph)
        print(f"    {name:<24}{stress.accuracy(made):6.1f}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])

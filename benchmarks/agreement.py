"""How near to float the integers of QPC are, beside those of NNCF and torchao, in one run.

    python -m benchmarks.agreement [--network mobilenet_v2] [--tool qpc] [--every 4]

All tools get the same trained networks, calibrate on the same photographs, have their default
settings of 8 bits, and are judged on the same images (requirements-models.txt lists the packages;
NNCF is not among them, and is left out where it is not installed). Of the others the rounded
networks are measured as they give them, in float arithmetic that rounds to their grids, so that no
runtime's saturation counts against them. NNCF's correction for saturating CPUs, which takes a bit
of the weights, is off. Of QPC it is three: what is deployed, as compiled code; its simulation in
float; and one that rounds only what layers read, which no integers can have on their way.

"nearer" says of the images whose first class is not that of float how many are closer than one
hundredth of the logits' spread: ties that any rounding breaks.
"""

from __future__ import annotations

import argparse
import copy
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

import qpc
from benchmarks.accuracy import BATCH, Subject, integer_layers, run, share, sqnr_db
from benchmarks.real_models import NETWORKS
from benchmarks.residual_streams import of_what_layers_read
from qpc.recipes import post_training_quantization, to_integer


@dataclass(frozen=True)
class Rounded:
    """A rounded network.

    form: what runs. layers: how many convolutions and linear layers have rounded weights.
    """

    form: str
    layers: int
    function: Callable[[Tensor], Tensor]


def through_qpc(subject: Subject) -> Iterator[Rounded]:
    """What `qpc.quantize` and `qpc.compile` give by default, and simulations of it."""
    simulated = post_training_quantization(subject.calibration.split(BATCH)).run(subject.gm)
    integers = to_integer().run(simulated)
    layers = integer_layers(integers)
    yield Rounded("qpc, compiled", layers, qpc.compile(integers, batch_sizes=(BATCH,)))
    yield Rounded("qpc, simulated", layers, simulated)
    yield Rounded("qpc, layers' inputs only", layers, of_what_layers_read(simulated))


def through_nncf(subject: Subject) -> Iterator[Rounded]:
    """NNCF's post-training quantization of the PyTorch module."""
    nncf = importlib.import_module("nncf")
    advanced = importlib.import_module("nncf.quantization.advanced_parameters")
    fix = advanced.AdvancedQuantizationParameters(overflow_fix=advanced.OverflowFix.DISABLE)
    images = subject.calibration.split(1)
    made: nn.Module = nncf.quantize(
        subject.network.load(),
        nncf.Dataset(images),
        subset_size=len(images),
        advanced_parameters=fix,
    )
    # What stands before operand 1 of an operator rounds its weight.
    rounding = (name for name, _ in made.named_buffers() if name.endswith(".enabled"))
    weights = [name for name in rounding if ".pre_hooks." in name and "__1." in name]
    yield Rounded("nncf", len(weights), made)


def through_torchao(subject: Subject) -> Iterator[Rounded]:
    """PyTorch's PT2E with the quantizer for x86."""
    steps = importlib.import_module("torchao.quantization.pt2e.quantize_pt2e")
    x86 = importlib.import_module("torchao.quantization.pt2e.quantizer.x86_inductor_quantizer")
    batch = {0: torch.export.Dim("batch", min=1, max=1024)}
    example = (subject.calibration[:2],)
    model = copy.deepcopy(subject.network.load())
    form = torch.export.export(model, example, dynamic_shapes=(batch,), strict=True).module()
    quantizer = x86.X86InductorQuantizer()
    quantizer.set_global(x86.get_default_x86_inductor_quantization_config())
    prepared = steps.prepare_pt2e(form, quantizer)
    run(prepared, subject.calibration)
    made: Any = steps.convert_pt2e(prepared)
    weights = [n for n in made.graph.nodes if "dequantize_per_channel" in str(n.target)]
    yield Rounded("torchao", len(weights), made)


TOOLS: Mapping[str, Callable[[Subject], Iterator[Rounded]]] = {
    "qpc": through_qpc,
    "nncf": through_nncf,
    "torchao": through_torchao,
}


def measure(subject: Subject, found: Rounded) -> str:
    """A line of the table."""
    logits, wanted = run(found.function, subject.images), subject.logits
    differ = logits.argmax(1) != wanted.argmax(1)
    first_two = wanted.topk(2, dim=1).values
    near = (first_two[:, 0] - first_two[:, 1]) < 0.01 * (wanted.amax(1) - wanted.amin(1))
    return (
        f"{subject.network.name:<20}{found.form:<26}{found.layers:>4}/{subject.network.layers}"
        f"{sqnr_db(wanted, logits):>9.2f}{share(~differ):>11.3f}{int(differ.sum()):>8}"
        f"{int((differ & near).sum()):>8}{share(logits.argmax(1) == subject.labels):>8.3f}"
    )


HEAD = (
    f"{'network':<20}{'form':<26}{'layers':>7}{'SQNR dB':>9}{'agreement':>11}{'differ':>8}"
    f"{'nearer':>8}{'top-1':>8}"
)


def main(arguments: list[str]) -> None:
    """Measure what the command line asks for, and print a table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--network", choices=NETWORKS, action="append")
    parser.add_argument("--tool", choices=TOOLS, action="append")
    parser.add_argument("--every", type=int, default=1, help="every so-manieth image of both kinds")
    options = parser.parse_args(arguments)
    print(HEAD)
    for name in options.network or NETWORKS:
        subject = Subject(NETWORKS[name], every=options.every)
        for tool in options.tool or TOOLS:
            if tool == "nncf" and importlib.util.find_spec("nncf") is None:
                print(f"{name:<20}nncf is not installed")
                continue
            for found in TOOLS[tool](subject):
                print(measure(subject, found), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])

"""What quantization costs trained networks, for every kind of observer.

    python -m benchmarks.accuracy [--network mobilenet_v2] [--observer mse] [--json accuracy.json]

Both networks are calibrated on photographs of scikit-image and judged on labelled ones of foolbox
(requirements-models.txt lists the packages). The integer graph runs as compiled code, and "differ"
says how many logits of the first batch are not those of the graph itself. A few labels tell little:
look at the signal-to-noise ratio of the logits, and at how often float and integers agree on the
first class.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.fx import GraphModule

import qpc
from benchmarks.real_models import (
    NETWORKS,
    TrainedNetwork,
    calibration_images,
    labelled_images,
)
from qpc.layers import integer_layer
from qpc.quant.config import ActivationConfig, LayerConfig, QuantConfig
from qpc.quant.observers import MSE, MinMax, Percentile

Observer = MinMax | Percentile | MSE
OBSERVERS: Mapping[str, Observer] = {
    observer.kind: observer for observer in (MinMax(), Percentile(), MSE())
}
BATCH = 8


@dataclass(frozen=True)
class Result:
    """One network quantized in one way.

    quantized, layers: convolutions and linear layers that became integer operators, and all.
    differing: how many logits of the first batch differ between compiled code and integer graph.
    sqnr_db: signal-to-noise ratio of all logits together.
    agreement: share of the images to which float and integers give the same first class.
    top1_float, top1: share of the images whose label comes first.
    seconds: time to calibrate and quantize.
    """

    network: str
    observer: str
    quantized: int
    layers: int
    differing: int
    sqnr_db: float
    agreement: float
    top1_float: float
    top1: float
    images: int
    seconds: float


def main(arguments: list[str]) -> None:
    """Measure what the command line asks for, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--network", choices=NETWORKS, action="append")
    parser.add_argument("--observer", choices=OBSERVERS, action="append")
    parser.add_argument("--json", type=Path, help="write the results to this file, too")
    options = parser.parse_args(arguments)
    results = []
    print(HEAD)
    for name in options.network or NETWORKS:
        subject = Subject(NETWORKS[name])
        for observer in options.observer or OBSERVERS:
            results.append(subject.measure(OBSERVERS[observer]))
            print(row(results[-1]), flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(r) for r in results], indent=2) + "\n")


HEAD = (
    f"{'network':<20}{'observer':<12}{'layers':>8}{'differ':>8}{'SQNR dB':>9}{'agreement':>11}"
    f"{'top-1 float':>13}{'top-1 int8':>12}{'images':>8}{'seconds':>9}"
)


def row(result: Result) -> str:
    """One line of the table."""
    layers = f"{result.quantized}/{result.layers}"
    return (
        f"{result.network:<20}{result.observer:<12}{layers:>8}{result.differing:>8}{result.sqnr_db:>9.2f}"
        f"{result.agreement:>11.3f}{result.top1_float:>13.3f}{result.top1:>12.3f}"
        f"{result.images:>8}{result.seconds:>9.1f}"
    )


class Subject:
    """A traced network with the images to calibrate and to judge it on.

    every: take only every so-manieth image, of both kinds.
    """

    def __init__(self, network: TrainedNetwork, *, every: int = 1) -> None:
        self.network = network
        self.calibration = network.normalise(calibration_images()[::every])
        pixels, self.labels = (values[::every] for values in labelled_images())
        self.images = network.normalise(pixels)
        self.gm = qpc.trace(network.load(), self.images[:1])
        self.logits = run(self.gm, self.images)

    def quantize(self, observer: Observer | None = None) -> GraphModule:
        """The integer graph, by default settings or with another observer of activations."""
        config = QuantConfig()
        if observer is not None:
            config = QuantConfig(
                default=LayerConfig(activation=ActivationConfig(observer=observer))
            )
        return qpc.quantize(self.gm, self.calibration.split(BATCH), config)

    def measure(self, observer: Observer | None = None) -> Result:
        """Quantize and judge."""
        start = time.perf_counter()
        integer = self.quantize(observer)
        seconds = time.perf_counter() - start
        compiled = qpc.compile(integer, batch_sizes=(BATCH,))
        logits = run(compiled, self.images)
        known = run(integer, self.images[:BATCH])
        return Result(
            network=self.network.name,
            observer=observer.kind if observer is not None else "default",
            quantized=integer_layers(integer),
            layers=self.network.layers,
            differing=int((logits[:BATCH] != known).sum()),
            sqnr_db=sqnr_db(self.logits, logits),
            agreement=share(self.logits.argmax(1) == logits.argmax(1)),
            top1_float=share(self.logits.argmax(1) == self.labels),
            top1=share(logits.argmax(1) == self.labels),
            images=len(self.images),
            seconds=seconds,
        )


def run(model: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Logits of all images, in batches."""
    with torch.no_grad():
        return torch.cat([model(batch) for batch in images.split(BATCH)])


def integer_layers(gm: GraphModule) -> int:
    """How many convolutions and linear layers are integer operators."""
    return sum(integer_layer(node) is not None for node in gm.graph.nodes)


def sqnr_db(reference: Tensor, other: Tensor) -> float:
    """Signal-to-quantization-noise ratio."""
    noise = (reference - other).double().square().sum()
    return 10 * math.log10(float(reference.double().square().sum() / noise))


def share(true: Tensor) -> float:
    """The share of a boolean tensor that is true."""
    return float(true.double().mean())


if __name__ == "__main__":
    main(sys.argv[1:])

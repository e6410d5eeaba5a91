"""Speed of the convolution kernels on layers of real networks, next to what the CPU can do.

    python -m benchmarks.kernels [--network resnet18|mobilenet_v2] [--threads 1] [--target native]

Prints one JSON line for the peak (a loop of dot products with all data in reach), one for each
distinct layer and one for each network. `gmac_s` is 1e9 multiply-accumulates per second; `share` is
its ratio to the peak. The time of a layer is the median of many runs with warm caches,
requantization included.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from math import prod

import numpy as np
import tvm

from qpc.backends.tvm.kernels.conv.conv2d import conv2d
from qpc.backends.tvm.kernels.conv.conv_plan import LayerConstants
from qpc.backends.tvm.kernels.conv.linear import LinearDesc, linear
from qpc.backends.tvm.kernels.geometry import Conv2dDesc
from qpc.backends.tvm.kernels.isa.choose import Isa, isa_for
from qpc.backends.tvm.measure.peak import peak
from qpc.targets import Target


@dataclass(frozen=True)
class Layer:
    """A square convolution and how often the network has it."""

    size: int
    c: int
    o: int
    kernel: int = 3
    stride: int = 1
    groups: int = 1
    count: int = 1

    @property
    def desc(self) -> Conv2dDesc:
        """The kernel's description, for one image."""
        return Conv2dDesc(
            n=1,
            h=self.size,
            w=self.size,
            c=self.c,
            o=self.o,
            kernel=(self.kernel, self.kernel),
            stride=(self.stride, self.stride),
            padding=(self.kernel // 2,) * 4,
            groups=self.groups,
        )

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one run."""
        return prod(self.desc.output.shape) * self.c // self.groups * self.kernel**2


def resnet18() -> Iterator[Layer]:
    """Every layer of ResNet-18 at 224 x 224."""
    yield Layer(224, 3, 64, kernel=7, stride=2)
    yield Layer(56, 64, 64, count=4)
    for size, c in ((56, 64), (28, 128), (14, 256)):
        yield Layer(size, c, 2 * c, stride=2)
        yield Layer(size, c, 2 * c, kernel=1, stride=2)
        yield Layer(size // 2, 2 * c, 2 * c, count=3)
    yield Layer(1, 512, 1000, kernel=1)


def mobilenet_v2() -> Iterator[Layer]:
    """Every layer of MobileNetV2 at 224 x 224."""
    yield Layer(224, 3, 32, stride=2)
    size, c = 112, 32
    blocks = (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    )
    for expansion, out, repeats, first_stride in blocks:
        for repeat in range(repeats):
            stride, hidden = (first_stride if repeat == 0 else 1), c * expansion
            if expansion > 1:
                yield Layer(size, c, hidden, kernel=1)
            yield Layer(size, hidden, hidden, stride=stride, groups=hidden)
            size //= stride
            yield Layer(size, hidden, out, kernel=1)
            c = out
    yield Layer(size, c, 1280, kernel=1)
    yield Layer(1, 1280, 1000, kernel=1)


NETWORKS: dict[str, Callable[[], Iterator[Layer]]] = {
    "resnet18": resnet18,
    "mobilenet_v2": mobilenet_v2,
}


def main(arguments: list[str]) -> None:
    """Run the benchmarks that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--network", choices=NETWORKS, action="append")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--target", default="native")
    options = parser.parse_args(arguments)
    target = Target.parse(options.target)
    isa = isa_for(target)
    best = peak_gmac_s(target)
    report(peak_gmac_s=round(best, 1), target=target.name, threads=options.threads)
    for network in options.network or NETWORKS:
        run_network(network, isa, target, options.threads, best)


def run_network(network: str, isa: Isa, target: Target, threads: int, best: float) -> None:
    """Measure and report each distinct layer of a network, and their sum."""
    counts: dict[Layer, int] = {}
    for layer in NETWORKS[network]():
        counts[layer] = counts.get(layer, 0) + layer.count
    total_seconds, total_macs, total_compile = 0.0, 0, 0.0
    for layer, count in counts.items():
        seconds, compile_seconds = measure(layer, isa, target, threads)
        total_seconds += seconds * count
        total_macs += layer.macs * count
        total_compile += compile_seconds
        speed = layer.macs / seconds / 1e9
        report(
            network=network,
            **{**asdict(layer), "count": count},
            us=round(seconds * 1e6, 1),
            gmac_s=round(speed, 1),
            share=round(speed / best, 3),
            compile_ms=round(compile_seconds * 1e3),
        )
    speed = total_macs / total_seconds / 1e9
    report(
        network=network,
        ms=round(total_seconds * 1e3, 3),
        gmac_s=round(speed, 1),
        share=round(speed / best, 3),
        compile_ms=round(total_compile * 1e3),
    )


def measure(layer: Layer, isa: Isa, target: Target, threads: int) -> tuple[float, float]:
    """Seconds of one run, and seconds to build the kernel."""
    rng = np.random.default_rng(0)
    desc = layer.desc
    weight = rng.integers(-127, 128, (layer.o, layer.c // layer.groups, *desc.kernel), np.int8)
    bias = rng.integers(-1000, 1000, layer.o, np.int32)
    constants = LayerConstants(weight, bias, np.full(layer.o, 1e-3, np.float32))
    start = time.perf_counter()
    if layer.size == 1:
        kernel = linear(
            isa,
            LinearDesc(1, layer.c, layer.o),
            replace(constants, weight=weight.reshape(layer.o, layer.c)),
            threads=threads,
        )
    else:
        kernel = conv2d(isa, desc, constants, threads=threads)
    function = compile_function(kernel.name, kernel.func, target)
    compile_seconds = time.perf_counter() - start
    x = rng.integers(0, 256, kernel.inputs[0].shape, np.uint8)
    arrays = (x, *kernel.params, np.zeros(kernel.output.shape, np.uint8))
    return median_seconds(
        function, [tvm.runtime.tensor(array) for array in arrays]
    ), compile_seconds


def peak_gmac_s(target: Target) -> float:
    """Speed of dot products on data in reach."""
    loop = peak(target)
    return loop.macs / median_seconds(loop.run, []) / 1e9


def compile_function(name: str, func: tvm.tirx.PrimFunc, target: Target) -> Callable[..., object]:
    """Machine code of one function."""
    llvm = {"kind": "llvm", "mtriple": target.triple, "mattr": list(target.mattr)}
    module = tvm.compile(tvm.IRModule({name: func}), target=tvm.target.Target(llvm))
    function: Callable[..., object] = module[name]
    return function


def median_seconds(function: Callable[..., object], arguments: list[object]) -> float:
    """Median time of a call; at least 30 calls and 50 ms."""
    for _ in range(3):
        function(*arguments)
    times: list[float] = []
    while len(times) < 30 or sum(times) < 0.05:
        start = time.perf_counter()
        function(*arguments)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def report(**values: object) -> None:
    """Print one line of JSON."""
    sys.stdout.write(json.dumps(values) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])

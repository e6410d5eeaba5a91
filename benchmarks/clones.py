"""Several threads of a server: one model that they take turns with, or a clone for each.

python -m benchmarks.clones --network resnet18 --threads 4
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

import qpc
from benchmarks.networks import NETWORKS
from qpc.backends.tvm.runtime.model import CompiledModel


def calls_per_second(models: Sequence[CompiledModel], x: Tensor, calls: int) -> float:
    """With one thread for each of the models, which may be the same one."""

    def work(model: CompiledModel) -> None:
        for _ in range(calls):
            model(x)

    with ThreadPoolExecutor(len(models)) as pool:
        list(pool.map(lambda model: model(x), models))  # threads and memory are there
        start = time.perf_counter()
        list(pool.map(work, models))
        return len(models) * calls / (time.perf_counter() - start)


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--network", choices=list(NETWORKS), default="resnet18")
    parser.add_argument("--threads", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    torch.manual_seed(0)
    network = NETWORKS[options.network]
    images = network.images()
    graph = qpc.quantize(network.prepare(images), [images])
    model = qpc.compile(graph, batch_sizes=(network.batch,))
    x = images[:1].expand(network.batch, -1, -1, -1).contiguous()
    calls = max(3, round(500 / model.benchmark(x, repeats=10).median_ms / options.threads))
    one = [model] * options.threads
    clones = [model, *(model.clone() for _ in range(options.threads - 1))]
    pairs = [
        (calls_per_second(one, x, calls), calls_per_second(clones, x, calls))
        for _ in range(options.rounds)
    ]
    print(f"{options.network}, {options.threads} threads, {options.rounds} rounds in turns")
    for name, rates in zip(("one model", "clones"), zip(*pairs, strict=True), strict=True):
        print(f"  {name:9} {statistics.median(rates):8.1f} calls/s")
    ratios = sorted(clones / one for one, clones in pairs)
    print(f"  ratio     {statistics.median(ratios):8.2f} ({ratios[0]:.2f}..{ratios[-1]:.2f})")


if __name__ == "__main__":
    main()

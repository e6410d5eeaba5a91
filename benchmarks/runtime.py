"""What `qpc.runtime` costs beside `qpc.load`: time and memory to load a model, and speed.

python -m benchmarks.runtime --network resnet18
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch

import qpc
from benchmarks.networks import NETWORKS
from qpc import runtime

_LOADERS = {
    "qpc.runtime": "from qpc.runtime import load",
    "qpc.load": "from qpc import load",
}
_CODE = """
import json, sys, time
clock = time.process_time
start = clock()
{load}
imported = clock()
model = load(sys.argv[1])
loaded = clock()
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(json.dumps({{
    "import": 1e3 * (imported - start),
    "load": 1e3 * (loaded - imported),
    "resident": int(status["VmRSS"].split()[0]) / 1024,
    "most": int(status["VmHWM"].split()[0]) / 1024,
}}))
"""


def loaded(folder: Path, loader: str, rounds: int) -> Mapping[str, float]:
    """The least CPU time in ms to import and to load, and memory in MB; each in a new process."""
    found: list[Mapping[str, float]] = []
    for _ in range(rounds):
        command = [sys.executable, "-c", _CODE.format(load=_LOADERS[loader]), str(folder)]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        found.append(json.loads(done.stdout))
    return {name: min(one[name] for one in found) for name in found[0]}


def ratio(one: Callable[[], object], other: Callable[[], object], rounds: int) -> float:
    """The median of the quotients of times of calls that alternate."""
    quotients = []
    for _ in range(rounds):
        first, second = _time(one), _time(other)
        quotients.append(first / second)
    return statistics.median(quotients)


def _time(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--network", choices=list(NETWORKS), default="resnet18")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    torch.manual_seed(0)
    network = NETWORKS[options.network]
    images = network.images()
    graph = qpc.quantize(network.prepare(images), [images])
    x = images[:1].expand(network.batch, -1, -1, -1).numpy().copy()
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent, "model")
        qpc.compile(graph, batch_sizes=(network.batch,), threads=options.threads).save(folder)
        weights = (folder / "weights.safetensors").stat().st_size / 2**20
        print(f"{options.network}, {options.threads} thread(s), {weights:.1f} MB of weights")
        for loader in _LOADERS:
            costs = loaded(folder, loader, options.rounds)
            print(
                f"  {loader:12} CPU: import {costs['import']:.0f} ms, load {costs['load']:.0f} ms;"
                f" memory: {costs['resident']:.0f} MB, at most {costs['most']:.0f} MB"
            )
        small, large = runtime.load(folder), qpc.load(folder)
        different = int((np.asarray(small(x)) != np.asarray(large(x))).sum())
        found = ratio(lambda: small(x), lambda: large(x), 100 * options.rounds)
        print(f"  time of a call over that of qpc.load: {found:.3f}; {different} values differ")


if __name__ == "__main__":
    main()

"""Speed of compiled int8 networks against ONNX Runtime, measured in turns.

    python -m benchmarks.onnxruntime_int8 [--network resnet18] [--threads 1] [--json speed.json]

Both run the same quantized network: the ONNX model holds the same weights, scales and zero points,
in the form that ONNX Runtime is fastest with (QDQ; uint8 activations, int8 weights by channel), and
a run is refused if ONNX Runtime leaves a layer in float or computes something else. Inputs and
outputs are float32 numpy arrays for both.

Each round times a block of calls of one and then of the other, the order changing from round to
round. The ratio is taken within a round, so that a clock that moves, or other programs that want
the cores, meet both alike. "CPU share" says how much of the cores' time the benchmark got. Where
that is little, the processor times and the fastest calls of one thread still mean something, but
nothing of several threads does: they wait for each other, and how much a thread that waits actively
loses to other programs is no property of the network. The table then says so.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from torch import nn

import qpc
from benchmarks.accuracy import integer_layers, sqnr_db
from benchmarks.qdq import to_qdq
from qpc.models import resnet18
from qpc.recipes import post_training_quantization, to_integer

Array = npt.NDArray[np.float32]
Call = Callable[[], object]


@dataclass(frozen=True)
class Subject:
    """A network and the size of its square images."""

    make: Callable[[], nn.Module]
    size: int


def mobilenet_v2() -> nn.Module:
    """MobileNetV2 with trained weights, from torchvision, which nothing else here needs."""
    from benchmarks import real_models

    return real_models.mobilenet_v2()


NETWORKS: Mapping[str, Subject] = {
    "resnet18": Subject(resnet18, 224),
    "resnet18-cifar": Subject(lambda: resnet18(stem="cifar", classes=10), 32),
    "mobilenet_v2": Subject(mobilenet_v2, 224),
}


@dataclass(frozen=True)
class Side:
    """Milliseconds of one call.

    median_ms: the median over rounds of their medians; p10_ms and p90_ms likewise.
    best_ms: the fastest call of all.
    cpu_ms: the median over rounds of the processor time of a call, which leaves out the time that
    other programs had the core.
    ready_s: seconds from the quantized graph or ONNX model to something that runs.
    """

    median_ms: float
    p10_ms: float
    p90_ms: float
    best_ms: float
    cpu_ms: float
    ready_s: float


@dataclass(frozen=True)
class Result:
    """One network on both.

    ratio: the median over rounds of time of QPC / time of ONNX Runtime, below 1 where QPC is
    faster; ratio_p10 and ratio_p90 say how much it varies.
    ratio_best: the same of the fastest calls of all, which other programs disturb least.
    ratio_cpu: the median over rounds of the ratio of processor times.
    kernels: what ONNX Runtime runs.
    agreement_db: signal-to-noise ratio of ONNX Runtime's output against QPC's.
    """

    network: str
    threads: int
    qpc: Side
    onnxruntime: Side
    ratio: float
    ratio_p10: float
    ratio_p90: float
    ratio_best: float
    ratio_cpu: float
    rounds: int
    cpu_share: float
    load: float
    kernels: Mapping[str, int]
    agreement_db: float


def main(arguments: list[str]) -> None:
    """Measure what the command line asks for, and print a table for each network."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--network", choices=NETWORKS, action="append")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--json", type=Path, help="write the results to this file, too")
    options = parser.parse_args(arguments)
    pin(options.threads)
    torch.set_num_threads(options.threads)
    results = []
    for network in options.network or ["resnet18"]:
        results.append(compare(network, options.threads, options.rounds))
        print(table(results[-1]), flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(r) for r in results], indent=2) + "\n")


def pin(threads: int) -> None:
    """Keep this process on as many cores as it may use: the last ones, as others start from 0."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-threads:])


def compare(network: str, threads: int, rounds: int) -> Result:
    """Quantize a network once, run it on both, and measure."""
    subject = NETWORKS[network]
    torch.manual_seed(0)
    images = torch.randn(4, 3, subject.size, subject.size)
    gm = qpc.trace(subject.make(), images[:1])
    fake = post_training_quantization([images]).run(gm)
    integer = to_integer().run(fake)

    start = time.perf_counter()
    compiled = qpc.compile(integer, threads=threads)
    compile_s = time.perf_counter() - start
    session, session_s, kernels = onnx_session(to_qdq(fake), threads)
    check_kernels(kernels, integer_layers(integer))

    x: Array = images[:1].numpy()
    name = session.get_inputs()[0].name
    ours, theirs = compiled(x), session.run(None, {name: x})[0]
    agreement = sqnr_db(torch.from_numpy(ours), torch.from_numpy(theirs))
    if agreement < 20:  # both round sums to a grid in their own way; anything else is a mistake
        raise RuntimeError(f"ONNX Runtime computes something else: {agreement:.1f} dB")

    calls = (lambda: compiled(x), lambda: session.run(None, {name: x}))
    load = os.getloadavg()[0]
    times = in_turns(calls, rounds)
    ratios = [statistics.median(a.times) / statistics.median(b.times) for a, b in times]
    ours_side = side([a for a, _ in times], compile_s)
    theirs_side = side([b for _, b in times], session_s)
    return Result(
        network=network,
        threads=threads,
        qpc=ours_side,
        onnxruntime=theirs_side,
        ratio=statistics.median(ratios),
        ratio_p10=float(np.percentile(ratios, 10)),
        ratio_p90=float(np.percentile(ratios, 90)),
        ratio_best=ours_side.best_ms / theirs_side.best_ms,
        ratio_cpu=statistics.median(a.cpu_ms / b.cpu_ms for a, b in times),
        rounds=rounds,
        cpu_share=cpu_share(times, threads),
        load=load,
        kernels=kernels,
        agreement_db=agreement,
    )


def onnx_session(model: onnx.ModelProto, threads: int) -> tuple[Any, float, dict[str, int]]:
    """A session, the seconds it took to make, and how many of which operators it runs."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # it warns that what it saves fits this machine only
    data, providers = model.SerializeToString(), ["CPUExecutionProvider"]
    start = time.perf_counter()
    session = onnxruntime.InferenceSession(data, options, providers=providers)
    seconds = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
        onnxruntime.InferenceSession(data, options, providers=providers)
        optimized = onnx.load(options.optimized_model_filepath)
    return session, seconds, dict(Counter(node.op_type for node in optimized.graph.node))


def check_kernels(kernels: Mapping[str, int], layers: int) -> None:
    """Refuse a comparison in which ONNX Runtime computes a layer in float."""
    fused = kernels.get("QLinearConv", 0) + kernels.get("QGemm", 0)
    if fused != layers:
        raise RuntimeError(f"ONNX Runtime runs {fused} of {layers} layers in integers: {kernels}")


@dataclass(frozen=True)
class Block:
    """Milliseconds of each of several calls, and of processor time of a call on average."""

    times: list[float]
    cpu_ms: float


def in_turns(calls: tuple[Call, Call], rounds: int) -> list[tuple[Block, Block]]:
    """A block of each of two calls for every round."""
    for call in calls:
        block(call, 10)
    found = []
    for number in range(rounds):
        if number % 2 == 0:
            found.append((block(calls[0]), block(calls[1])))
        else:
            found.append((block(calls[1]), block(calls[0]))[::-1])
    return found


def block(call: Call, count: int = 5) -> Block:
    """Time `count` calls, after two that do not count."""
    time.sleep(_PAUSE)
    call()
    call()
    times = []
    cpu = time.process_time()
    for _ in range(count):
        start = time.perf_counter()
        call()
        times.append((time.perf_counter() - start) * 1e3)
    return Block(times, (time.process_time() - cpu) / count * 1e3)


_PAUSE = 0.02  # seconds in which the threads of the other side stop waiting actively


def cpu_share(blocks: list[tuple[Block, Block]], threads: int) -> float:
    """Processor time of all calls as a share of what `threads` cores had to give."""
    every = [b for pair in blocks for b in pair]
    cpu = sum(b.cpu_ms * len(b.times) for b in every)
    return cpu / sum(sum(b.times) for b in every) / threads


def side(rounds: list[Block], ready_s: float) -> Side:
    """The times of one of the two, summed up."""
    p10, p50, p90 = np.median([np.percentile(r.times, [10, 50, 90]) for r in rounds], axis=0)
    return Side(
        median_ms=float(p50),
        p10_ms=float(p10),
        p90_ms=float(p90),
        best_ms=min(min(r.times) for r in rounds),
        cpu_ms=statistics.median(r.cpu_ms for r in rounds),
        ready_s=ready_s,
    )


def table(result: Result) -> str:
    """The result as text."""
    head = f"{'':<14}{'median ms':>10}{'p10':>8}{'p90':>8}{'best':>8}{'CPU ms':>8}{'ready s':>9}"
    rows = [
        f"{name:<14}{s.median_ms:>10.2f}{s.p10_ms:>8.2f}{s.p90_ms:>8.2f}{s.best_ms:>8.2f}"
        f"{s.cpu_ms:>8.2f}{s.ready_s:>9.2f}"
        for name, s in (("QPC", result.qpc), ("ONNX Runtime", result.onnxruntime))
    ]
    kernels = ", ".join(f"{n} {k}" for k, n in sorted(result.kernels.items()))
    return "\n".join(
        [
            f"{result.network}, int8, batch 1, {result.threads} thread(s), {result.rounds} rounds",
            head,
            *rows,
            f"QPC / ONNX Runtime: {result.ratio:.3f} (10 % to 90 % of the rounds: "
            f"{result.ratio_p10:.3f} to {result.ratio_p90:.3f}); "
            f"fastest calls {result.ratio_best:.3f}, CPU time {result.ratio_cpu:.3f}",
            f"CPU share {result.cpu_share:.2f}, load {result.load:.1f}; "
            f"outputs agree to {result.agreement_db:.1f} dB",
            f"ONNX Runtime runs {kernels}",
            *([_doubt(result.threads)] if result.cpu_share < _ENOUGH else []),
            "",
        ]
    )


_ENOUGH = 0.8  # of the cores' time, for the wall-clock times to be believed


def _doubt(threads: int) -> str:
    rest = "fastest calls and CPU time only" if threads == 1 else "none of these figures"
    return f"WARNING: other programs had the cores; believe {rest}"


if __name__ == "__main__":
    main(sys.argv[1:])

"""Speed of compiled int8 networks against ONNX Runtime and OpenVINO, measured in turns.

    python -m benchmarks.suite [--network resnet18] [--threads 1] [--rounds 50] [--json speed.json]
                               [--target x86-64-avx512-vnni] [--preset]

Every network runs in a process of its own, on the same cores, so that none disturbs the next. The
table at the end, and the JSON file, hold for each the ratio of QPC's time to that of the faster of
the two, its spread, the share of the peak, how many values differ from the integer graph (0, or
something is wrong) and the seconds of compilation. `qpc.bench.compare` says how it is measured.

With a target below what the machine has, OpenVINO is held to the same instructions; ONNX Runtime
cannot be. With --preset, weights are rounded as is fastest for the target, see
`QuantConfig.for_target`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

import qpc
from benchmarks.networks import NETWORKS
from qpc.bench.compare import compare
from qpc.bench.peers import INT8_PEERS, PEERS, usable_peers
from qpc.bench.table import table
from qpc.quant.config import QuantConfig
from qpc.targets import Target

ONEDNN_LIMIT = "ONEDNN_MAX_CPU_ISA"
"""What oneDNN, which OpenVINO computes with, reads before its first kernel."""
ONEDNN_ISAS = {
    "sse4.1": "SSE41",
    "avx2": "AVX2",
    "avx512": "AVX512_CORE",
    "avx-vnni": "AVX2_VNNI",
    "avx512-vnni": "AVX512_CORE_VNNI",
    "amx": "AVX512_CORE_AMX",
}


def main(arguments: Sequence[str]) -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--network", choices=NETWORKS, action="append")
    parser.add_argument("--peer", choices=PEERS, action="append")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--json", type=Path, help="write the results to this file, too")
    parser.add_argument("--here", action="store_true", help="in this process (for one network)")
    parser.add_argument("--target", default="native", help="instructions to use")
    parser.add_argument("--preset", action="store_true", help="weights rounded for the target")
    options = parser.parse_args(arguments)
    if options.target != "native":
        os.environ[ONEDNN_LIMIT] = ONEDNN_ISAS[Target.parse(options.target).isa]
    # On as many cores as are used: the last ones, as other programs start from the first.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-options.threads :])
    peers = options.peer or list(INT8_PEERS)
    results = []
    for network in options.network or NETWORKS:
        if options.here:
            result = measure(
                network, options.threads, options.rounds, peers, options.target, options.preset
            )
        else:
            result = _in_process(network, options, peers)
        results.append(result)
        if options.json is not None:
            options.json.write_text(json.dumps(results, indent=2) + "\n")
    if not options.here:
        print(summary(results), flush=True)


def measure(
    network: str,
    threads: int,
    rounds: int,
    peers: Sequence[str],
    target: str = "native",
    preset: bool = False,
) -> dict[str, Any]:
    """Quantize a network, compile it, compare it, and return the result as JSON values."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    subject = NETWORKS[network]
    images = subject.images()
    start = time.perf_counter()
    config = QuantConfig.for_target(target) if preset else QuantConfig()
    gm = qpc.quantize(subject.prepare(images), [images], config)
    quantize_s = time.perf_counter() - start
    batch = subject.batch
    start = time.perf_counter()
    compiled = qpc.compile(gm, target=target, threads=threads, batch_sizes=(batch,))
    compile_s = time.perf_counter() - start
    x = images[torch.arange(batch) % len(images)].numpy()
    usable, failures = usable_peers(peers, gm, batch, threads)
    result = compare(network, gm, compiled, [x], threads=threads, rounds=rounds, peers=usable)
    print(table(result), flush=True)
    report = compiled.report
    return result.to_json() | {
        "quantize_s": quantize_s,
        "compile_s": compile_s,
        "compile_stages_s": dict(report.seconds),
        "float_operators": len(report.others),
        "failed_peers": failures,
    }


def _in_process(network: str, options: argparse.Namespace, peers: Sequence[str]) -> dict[str, Any]:
    """`measure` in another process, whose crash would be a result too."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "result.json")
        command = [sys.executable, "-m", "benchmarks.suite", "--here", "--network", network]
        command += ["--threads", str(options.threads), "--rounds", str(options.rounds)]
        command += ["--json", str(file), "--target", options.target]
        command += ["--preset"] if options.preset else []
        for peer in peers:
            command += ["--peer", peer]
        done = subprocess.run(command, check=False)
        if done.returncode or not file.exists():
            return {"network": network, "error": f"exit status {done.returncode}"}
        (result,) = json.loads(file.read_text())
    assert isinstance(result, dict)
    return result


def summary(results: Sequence[dict[str, Any]]) -> str:
    """One line for each network."""
    head = ("network", "QPC ms", "fastest peer", "ms", "ratio", "10 %", "90 %", "CPU", "share")
    row = "{:<20}{:>8}  {:<13}{:>7}{:>7}{:>7}{:>7}{:>7}{:>7}{:>7}{:>7}{:>10}{:>10}"
    lines = [row.format(*head, "CPU", "differ", "compile s", "CPU share")]
    for r in results:
        if "error" in r:
            lines.append(f"{r['network']:<20}{r['error']}")
            continue
        theirs = ["none", *[""] * 5]
        if r["fastest"] is not None:
            peer = next(p for p in r["peers"] if p["name"] == r["fastest"])
            spread = [f"{peer['ratio'][k]:.3f}" for k in ("median", "p10", "p90", "cpu")]
            theirs = [peer["name"], f"{peer['times']['median_ms']:.2f}", *spread]
        shares = [f"{r[k]:.1%}" for k in ("share", "share_cpu")]
        rest = [r["differing"], f"{r['compile_s']:.1f}", f"{r['cpu_share']:.2f}"]
        failed = "".join(f"  {name}: {why}" for name, why in r["failed_peers"].items())
        mine = (r["network"], f"{r['times']['median_ms']:.2f}")
        lines.append(row.format(*mine, *theirs, *shares, *rest) + failed)
    return "\n".join(lines)


if __name__ == "__main__":
    main(sys.argv[1:])

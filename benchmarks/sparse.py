"""Speed of a network whose weights have blocks of zeros, against the same network without.

    python -m benchmarks.sparse [--network resnet18] [--share 0.75] [--rounds 20] [--json FILE]

Blocks of 16 output x 4 input channels, those with the least norm of every layer, are masked by
`MaskWeights`; then the network is quantized and compiled as usual. Both networks run in turns on
one core. `differing` counts the values of the output that are not those of the integer graph.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

import qpc
from benchmarks.networks import NETWORKS
from qpc.bench.turns import in_turns, ratio, times
from qpc.passes import MaskWeights
from qpc.pruning.granularity import Blocks
from qpc.pruning.weight_layers import Scope
from qpc.pruning.weight_rules import Ratio

SHARES = (0.5, 0.62, 0.75, 0.9)


def main(arguments: Sequence[str]) -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--network", choices=NETWORKS, default="resnet18")
    parser.add_argument("--share", type=float, action="append", help="of blocks that are zero")
    parser.add_argument(
        "--layers", default="layer*", help="which lose blocks, as a pattern over module paths"
    )
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", type=Path, help="write the results to this file, too")
    options = parser.parse_args(arguments)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-1:])
    torch.set_num_threads(1)
    results = []
    shares = options.share or SHARES
    for result in measure(options.network, options.layers, shares, options.rounds):
        results.append(result)
        print(json.dumps(result), flush=True)
        if options.json is not None:
            options.json.write_text(json.dumps(results, indent=2) + "\n")


def measure(
    network: str, layers: str, shares: Sequence[float], rounds: int
) -> Iterator[dict[str, Any]]:
    """The results for each share of zero blocks, as JSON values."""
    torch.manual_seed(0)
    subject = NETWORKS[network]
    images = subject.images()
    traced = subject.prepare(images)
    dense = qpc.compile(qpc.quantize(traced, [images]), threads=1)
    x = images[:1]
    for share in shares:
        mask = MaskWeights(Ratio(share), Blocks(), Scope(pattern=layers))
        gm = qpc.quantize(qpc.Pipeline((mask,)).run(traced), [images])
        sparse = qpc.compile(gm, threads=1)
        blocks = in_turns({"dense": partial(dense, x), "sparse": partial(sparse, x)}, rounds)
        report = sparse.report.kernels
        yield {
            "network": network,
            "zero_blocks": share,
            "times_faster": asdict(ratio(blocks["dense"], blocks["sparse"])),
            "sparse_ms": times(blocks["sparse"]).median_ms,
            "dense_ms": times(blocks["dense"]).median_ms,
            "layers_that_skip": sum(use.skipped > 0 for use in report),
            "skipped_macs": sum(u.macs * u.skipped for u in report) / sum(u.macs for u in report),
            "differing": int((torch.as_tensor(sparse(x)) != gm(x)).sum()),
        }


if __name__ == "__main__":
    main(sys.argv[1:])

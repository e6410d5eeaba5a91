"""Speed and size of linear layers of one row with weights of 4 bits, next to those of 8 bits.

    python -m benchmarks.four_bits [--target native]

Prints one JSON line for each layer. `near_us` is the time of one layer again and again, whose
weights stay in the caches as far as they fit; `far_us` that of a layer after others that together
have `_FAR_BYTES` of weights of 8 bits, as in a large network.
"""

from __future__ import annotations

import argparse
import itertools
import sys

import numpy as np
import tvm

from benchmarks.kernels import compile_function, median_seconds, report
from qpc.backends.tvm.kernels.conv.conv_plan import LayerConstants
from qpc.backends.tvm.kernels.conv.linear import LinearDesc, linear
from qpc.backends.tvm.kernels.isa.choose import isa_for
from qpc.targets import Target

LAYERS = ((512, 1000), (1280, 1000), (2048, 1000), (4096, 4096))
"""Inputs and outputs: classifiers of ResNet-18, MobileNetV2 and ResNet-50, and a large layer."""
_FAR_BYTES = 256 * 2**20  # more than any cache holds, packed or not


def main(arguments: list[str]) -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--target", default="native")
    target = Target.parse(parser.parse_args(arguments).target)
    for k, o in LAYERS:
        four, eight = (measure(target, k, o, bits) for bits in (4, 8))
        report(
            k=k,
            o=o,
            target=target.name,
            four_bits=four,
            eight_bits=eight,
            near_times_faster=round(eight["near_us"] / four["near_us"], 2),
            far_times_faster=round(eight["far_us"] / four["far_us"], 2),
        )


def measure(target: Target, k: int, o: int, bits: int) -> dict[str, float]:
    """Times and size of one layer."""
    rng = np.random.default_rng(0)
    most = 2 ** (bits - 1) - 1
    weight = rng.integers(-most, most + 1, (o, k), np.int8)
    kernel = linear(
        isa_for(target),
        LinearDesc(1, k, o),
        LayerConstants(weight, np.zeros(o, np.int32), np.full(o, 1e-3, np.float32)),
    )
    function = compile_function(kernel.name, kernel.func, target)
    arrays = (rng.integers(0, 256, (1, k), np.uint8), *kernel.params, np.zeros((1, o), np.uint8))
    copies = [
        [tvm.runtime.tensor(array) for array in arrays]
        for _ in range(max(2, _FAR_BYTES // weight.nbytes))
    ]
    turns = itertools.cycle(copies)
    near = median_seconds(function, copies[0])
    far = median_seconds(lambda: function(*next(turns)), [])
    size = kernel.params[0].nbytes
    return {"near_us": round(near * 1e6, 1), "far_us": round(far * 1e6, 1), "weight_bytes": size}


if __name__ == "__main__":
    main(sys.argv[1:])

"""How much of networks that nobody here tuned for becomes integer, and why the rest does not.

    python -m benchmarks.coverage [--network resmlp_12_224] [--reasons] [--times]

Architectures of timm (requirements-models.txt lists the packages) and those of
`benchmarks.written_networks`, with random weights: coverage depends on how a network is written,
not on what it has learned. For each network: the layers with weights that become integer, and the
share of the multiply-accumulates that stay in float, in layers and in products of two values, such
as attention's. `--reasons` lists why operators stay in float. `--times` compiles each network for
this machine: the time of all its kernels in milliseconds, the share of float operators in it, that
of float operators other than attention, softmax, norms and recurrences with all that moves floats,
and whether outputs are those of the integer graph.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import sys
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

import torch
from torch.fx import GraphModule

import qpc
from benchmarks import written_networks
from benchmarks.real_models import torchvision_models
from qpc.analysis.coverage import is_quantized, layers_with_weights
from qpc.base import PassContext
from qpc.channels.cost import node_macs
from qpc.explanation.times import times_of
from qpc.explanation.verification import Verified, verified
from qpc.meta import info
from qpc.recipes import prepare
from qpc.registry import Role, op_name, role_of

NETWORKS = (
    "convnext_atto",
    "efficientformer_l1",
    "nf_regnet_b1",
    "levit_128s",
    "resmlp_12_224",
    "ghostnet_100",
    "mobilevit_xxs",
    "edgenext_xx_small",
    "fastvit_t8",
    "resnest14d",
    "skresnet18",
    "mixer_s32_224",
)
_EXCUSED = (
    *("scaled_dot_product_attention", "matmul", "bmm", "softmax", "log_softmax"),
    *("layer_norm", "group_norm", "linalg_vector_norm", "lstm", "gru"),
)
_SIZE = 224
_SIZES = {"mobilevit_xxs": 256, "edgenext_xx_small": 256, "fastvit_t8": 256}


@dataclass(frozen=True)
class Coverage:
    """What one network becomes.

    layers, integer: layers with weights, and those of them that are integer; macs: in millions,
    of the whole network; float_layers, float_products: the share of them in layers, and in
    products of two values, that stay in float; reasons: of all operators that stay in float.
    """

    network: str
    layers: int
    integer: int
    macs: float
    float_layers: float
    float_products: float
    reasons: Counter[str]

    def __str__(self) -> str:
        shares = f"{self.float_layers:10.1%} {self.float_products:12.1%}"
        return f"{self.network:20} {self.integer:5} of {self.layers:3} {self.macs:9.0f} {shares}"


def main(arguments: Sequence[str]) -> None:
    """Measure what the command line asks for, and print a line for each."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--network", action="append", help="any that timm has")
    parser.add_argument("--reasons", action="store_true", help="why operators stay in float")
    parser.add_argument("--times", action="store_true", help="compile them, and take times")
    options = parser.parse_args(arguments)
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    print(f"{'network':20} {'integer':>12} {'Mmacs':>9} {'in layers':>10} {'in products':>12}")
    for name in options.network or (*NETWORKS, *written_networks.NETWORKS):
        gm = traced(name)
        found = measured(name, prepare().run(gm, PassContext()))
        print(found, *([times(gm)] if options.times else []), flush=True)
        if options.reasons:
            for reason, count in found.reasons.most_common():
                print(f"    {count:4} {reason}")


def traced(name: str) -> GraphModule:
    """The graph of a network, traced on one sample."""
    torch.manual_seed(0)
    if (known := written_networks.NETWORKS.get(name)) is not None:
        return qpc.trace(known.make().eval(), torch.randn(1, *known.sample), check=False)
    size = _SIZES.get(name, _SIZE)
    model = timm().create_model(name, pretrained=False).eval()
    return qpc.trace(model, torch.randn(1, 3, size, size), check=False)


@dataclass(frozen=True)
class Times:
    """Where the time of a compiled network goes.

    ms: of all kernels. in_float: the share of float kernels. other: of those, what is neither
    attention, softmax, norm nor recurrence. checked: outputs beside those of the integer graph.
    """

    ms: float
    in_float: float
    other: float
    checked: Verified

    def __str__(self) -> str:
        return f"{self.ms:8.2f} ms {self.in_float:7.1%} {self.other:7.1%} {self.checked}"


def times(gm: GraphModule) -> Times:
    """Quantize a float graph on random values, compile it, compare and profile it."""
    x = torch.randn(2, *_sample(gm))
    integer = qpc.quantize(gm, [x], effort="fast")
    compiled = qpc.compile(integer)
    profile = compiled.profile()
    found = {n: t for n, t in times_of(profile, integer).items() if op_name(n) in _EXCUSED}
    whole = profile.kernels_us
    excused = sum(time.us for time in found.values())
    other = max(profile.float_us - excused, 0.0)
    checked = verified(integer, compiled)
    return Times(whole / 1e3, profile.float_us / whole, other / whole, checked)


def _sample(gm: GraphModule) -> list[int]:
    """The sizes of one sample of the only input."""
    (given,) = gm.graph.find_nodes(op="placeholder")
    return [d for d in (info(given).shape or ())[1:] if isinstance(d, int)]


def measured(name: str, gm: GraphModule) -> Coverage:
    """What a prepared graph will have in integers."""
    macs = node_macs(gm)
    layers = layers_with_weights(gm)
    whole = max(sum(macs.values()), 1)
    left = {node: count for node, count in macs.items() if not is_quantized(node)}
    in_layers = sum(count for node, count in left.items() if node in layers)
    reasons = Counter(
        f"{op_name(n)}: {info(n).declined}"
        for n in gm.graph.nodes
        if info(n).declined and role_of(n) is not Role.STORED
    )
    return Coverage(
        name,
        len(layers),
        sum(map(is_quantized, layers)),
        whole / 1e6,
        in_layers / whole,
        (sum(left.values()) - in_layers) / whole,
        reasons,
    )


def timm() -> ModuleType:
    """The package timm, for which torchvision's operators must be known."""
    torchvision_models()
    return importlib.import_module("timm")


if __name__ == "__main__":
    main(sys.argv[1:])

"""What the 8 bits of residual streams cost, in simulations of trained networks.

    python -m benchmarks.residual_streams [--network demo] [--every 2] [--values]

A line for each form of one calibrated network, with the signal-to-noise ratio of its logits against
float, and how often both have the same first class:

- `8 bits`: what the integer graph computes, up to a step of a grid here and there;
- `16 bits`: additions read values of 16 bits, of twice the range; layers read 8 bits of them;
- `float`: additions read values as they are;
- `layers' inputs`: nothing but what layers read is rounded, the least that int8 layers can do.

Weights and biases are the same in all forms. `--values` prints for each rounded value the share of
the error that goes if it is not rounded: for all that read it, and for additions alone. The
demonstration's network is judged on its own test images, the others on photographs
(requirements-models.txt lists the packages).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

import qpc
from qpc.assets import load_demo_images, load_demo_model
from qpc.calls import aten, qpc_ops
from qpc.layers import float_layer
from qpc.meta import copied, info
from qpc.recipes import post_training_quantization
from qpc.registry import Role, role_of

NETWORKS = ("demo", "mobilenet_v2", "efficientnet_lite0")
_SUMS = (aten.add.Tensor, aten.sub.Tensor)
_FINER = 128  # steps of a grid of 16 bits in one of 8, if it has twice the range


def of_what_layers_read(gm: GraphModule) -> GraphModule:
    """A fake-quantized graph in which layers alone see rounded values, also through moves."""
    return _reading(gm, lambda rounded, reader: None if _is_for_layer(reader) else _value(rounded))


def with_float_sums(gm: GraphModule) -> GraphModule:
    """A fake-quantized graph whose additions see values that are not rounded."""
    return _reading(gm, lambda rounded, reader: _value(rounded) if _sums(reader) else None)


def with_sums_of_16_bits(gm: GraphModule) -> GraphModule:
    """A fake-quantized graph whose additions see values on a grid 128 times as fine."""

    def finer(rounded: Node, reader: Node) -> Node | None:
        if not _sums(reader):
            return None
        grid = info(rounded).qparams or info(_value(rounded)).qparams
        assert grid is not None
        least, greatest = (2 * _FINER * (end - grid.zero_point) for end in (grid.lo, grid.hi))
        with rounded.graph.inserting_before(rounded.next):
            step = float(grid.scale) / _FINER
            return rounded.graph.call_function(_round, (_value(rounded), step, least, greatest))

    return _reading(gm, finer)


FORMS: Mapping[str, Callable[[GraphModule], GraphModule]] = {
    "8 bits": copied,
    "16 bits": with_sums_of_16_bits,
    "float": with_float_sums,
    "layers' inputs": of_what_layers_read,
}


def _reading(gm: GraphModule, instead: Callable[[Node, Node], Node | None]) -> GraphModule:
    """A copy in which readers of rounded values read something else, where there is anything."""
    made = copied(gm)
    for rounded in rounded_values(made):
        for reader in list(rounded.users):
            if (value := instead(rounded, reader)) is not None:
                reader.replace_input_with(rounded, value)
    made.recompile()
    return made


def rounded_values(gm: GraphModule) -> list[Node]:
    """The calls that round activations, in the order of the graph."""
    calls = gm.graph.find_nodes(op="call_function", target=qpc_ops.fake_quantize.default)
    return [node for node in calls if _value(node).op != "get_attr"]


def _value(rounded: Node) -> Node:
    return rounded.all_input_nodes[0]


def _sums(reader: Node) -> bool:
    return reader.target in _SUMS


def _is_for_layer(reader: Node) -> bool:
    moved = role_of(reader) is Role.MOVE and any(map(_is_for_layer, reader.users))
    return moved or float_layer(reader) is not None


def _round(value: Tensor, step: float, least: float, greatest: float) -> Tensor:
    return (value / step).clamp(least, greatest).round() * step


# --- measuring ------------------------------------------------------------------------------------


def run(gm: GraphModule, images: Tensor) -> Tensor:
    """Logits of all images, in batches."""
    with torch.no_grad():
        return torch.cat([gm(batch) for batch in images.split(16)])


def decibels(found: Tensor, wanted: Tensor) -> float:
    """Signal-to-noise ratio."""
    noise = (found - wanted).double().square().sum()
    return float(10.0 * torch.log10(wanted.double().square().sum() / noise))


def subject(network: str, every: int) -> tuple[GraphModule, Sequence[Tensor], Tensor]:
    """A traced network, batches to calibrate on, and images to judge by."""
    if network == "demo":
        model, _ = load_demo_model()
        data = load_demo_images()
        images = data.test[::every]
        return qpc.trace(model, images[:2]), data.calibration[:256].split(64), images
    from benchmarks.accuracy import Subject  # needs packages that few have
    from benchmarks.real_models import NETWORKS as REAL

    found = Subject(REAL[network])
    return found.gm, found.calibration.split(8), found.images[::every]


def without(gm: GraphModule, name: str, *, sums_only: bool) -> GraphModule:
    """A fake-quantized graph in which one value is not rounded, for its readers or for sums."""

    def instead(rounded: Node, reader: Node) -> Node | None:
        goes = rounded.name == name and (not sums_only or _sums(reader))
        return _value(rounded) if goes else None

    return _reading(gm, instead)


def measure_values(rounded: GraphModule, images: Tensor, wanted: Tensor) -> None:
    """What the error loses with the rounding of each value."""

    def error(gm: GraphModule) -> float:
        return float((run(gm, images) - wanted).double().square().sum())

    whole = error(rounded)
    for node in rounded_values(rounded):
        shares = [
            1.0 - error(without(rounded, node.name, sums_only=sums_only)) / whole
            for sums_only in (False, True)
            if not sums_only or any(map(_sums, node.users))
        ]
        print(f"    {_value(node).name:<24}" + "".join(f"{share:>8.1%}" for share in shares))


def main(arguments: Sequence[str]) -> None:
    """Measure what the command line asks for, and print a line for each form."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--network", choices=NETWORKS, action="append")
    parser.add_argument("--every", type=int, default=1, help="judge by every so-manieth image")
    parser.add_argument("--values", action="store_true", help="what each rounding costs")
    options = parser.parse_args(arguments)
    for network in options.network or NETWORKS:
        gm, batches, images = subject(network, options.every)
        rounded, wanted = post_training_quantization(batches).run(gm), run(gm, images)
        for form, make in FORMS.items():
            found = run(make(rounded), images)
            agreement = float((found.argmax(1) == wanted.argmax(1)).double().mean())
            print(
                f"{network:<20}{form:<16}{decibels(found, wanted):6.2f} dB"
                f"{agreement:8.3f} of {len(images)}",
                flush=True,
            )
        if options.values:
            measure_values(rounded, images, wanted)


if __name__ == "__main__":
    main(sys.argv[1:])

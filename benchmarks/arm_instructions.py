"""Instructions that a call of an exported network takes on ARM CPUs, counted by QEMU.

    python -m benchmarks.arm_instructions [--network resnet18 ...] [--target cortex-a76 ...]

A count is no time, but it is the same on every machine, and says how much of a CPU's work is
multiplication. Prints one JSON line for each network and target: `instructions` of one call, and
`per_mac`, of each multiply-accumulate. Outputs are compared with the expected bytes on the way.

Libraries for microcontrollers are C source, built with -O2 or what `--optimize` says.

Needs a C compiler, the cross compilers of the targets, and an emulator with plugins: the packages
that `qpc targets` names.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch.fx import GraphModule

import qpc
from benchmarks.networks import Network, torchvision
from qpc.backends.deploy import bare_metal
from qpc.backends.deploy.manifest import read_library
from qpc.backends.deploy.sample import MAIN, VECTORS
from qpc.backends.deploy.toolchain import build, compiler_for, emulator_for
from qpc.models import resnet18
from qpc.targets.data import BARE_METAL
from tests.edge_networks import keywords

NETWORKS: Mapping[str, Network] = {
    "resnet18": Network(resnet18),
    "mobilenet_v2": Network(torchvision("mobilenet_v2")),
}
_SOUND = "keywords"  # whose inputs are no images
TARGETS = ("cortex-a53", "cortex-a76", "aarch64-i8mm", "armv7-a")
_PLUGIN = Path(__file__).with_name("count_instructions.c")
_CALLS = (1, 2)  # of one program and of another, which differ in nothing else
_CALLER = """#include "net.h"

static unsigned char arena[NET_ARENA_BYTES] __attribute__((aligned(NET_ARENA_ALIGNMENT)));
static net_input_0_t input[NET_INPUT_0_ELEMENTS];
static net_output_0_t output[NET_OUTPUT_0_ELEMENTS];

int main(void)
{
    const void *inputs[] = {input};
    void *outputs[] = {output};
    int i, code = 0;
    for (i = 0; i < CALLS; i++) code |= net_run(inputs, outputs, arena, NET_ARENA_BYTES);
    return code;
}
"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Count what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__)
    names = [*NETWORKS, _SOUND]
    parser.add_argument("--network", nargs="+", default=[*NETWORKS], choices=names)
    parser.add_argument("--target", nargs="+", default=[*TARGETS])
    parser.add_argument("--optimize", default="-O2", help="for microcontrollers")
    chosen = parser.parse_args(arguments)
    for name in chosen.network:
        gm = keywords() if name == _SOUND else quantized(NETWORKS[name])
        for target in chosen.target:
            found = count(gm, target, chosen.optimize)
            print(json.dumps({"network": name, "target": target, **found}), flush=True)


def quantized(network: Network) -> GraphModule:
    """The network as an integer graph."""
    torch.manual_seed(0)
    images = network.images()
    return qpc.quantize(network.prepare(images), [images])


def count(gm: GraphModule, target: str, optimize: str = "-O2") -> dict[str, float]:
    """Export a graph, run it, and count."""
    if qpc.Target.parse(target).architecture.system == BARE_METAL:
        return _count_without_system(gm, qpc.Target.parse(target), optimize)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plugin = folder / "count.so"
        subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", plugin, _PLUGIN], check=True)
        out = folder / "library"
        library = qpc.export_library(gm, target, out, vectors=1)
        entry, files = read_library(out)
        chosen = qpc.Target.parse(target)
        sources = [out / file for file in (MAIN, *entry.sources, entry.library)]
        build(sources, folder / "main", compiler_for(chosen), ["-static", "-lm"])
        assert VECTORS in files
        emulator = [*emulator_for(chosen), "-plugin", str(plugin), "-d", "plugin"]
        few, many = (_counted(emulator, folder / "main", out / VECTORS, n) for n in _CALLS)
        each = (many - few) // (_CALLS[1] - _CALLS[0])
        return {"instructions": each, "per_mac": round(each / library.footprint.macs, 4)}


def _count_without_system(gm: GraphModule, target: qpc.Target, optimize: str) -> dict[str, float]:
    """`count` of C source, in a program of its own: the sample has no clock there."""
    assert target.emulated is not None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plugin = folder / "count.so"
        subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", plugin, _PLUGIN], check=True)
        library = qpc.export_library(gm, target, folder / "net", name="net", vectors=1, form="c")
        files = {"calls.c": _CALLER, **bare_metal.files(target.emulated)}
        for file, text in files.items():
            (folder / file).write_text(text)
        sources = [folder / bare_metal.START, folder / "calls.c", folder / "net" / "net.c"]
        emulator = emulator_for(target)
        found = []
        for calls in _CALLS:
            options = [optimize, f"-DCALLS={calls}", f"-I{folder / 'net'}", f"-L{folder}", "-lm"]
            build(sources, folder / "main", compiler_for(target), [*options, *bare_metal.OPTIONS])
            command = [*emulator[:-1], "-plugin", str(plugin), "-d", "plugin", emulator[-1]]
            found.append(_printed([*command, str(folder / "main")]))
        each = (found[1] - found[0]) // (_CALLS[1] - _CALLS[0])
        return {"instructions": each, "per_mac": round(each / library.footprint.macs, 4)}


def _counted(emulator: Sequence[str], program: Path, vectors: Path, calls: int) -> int:
    """The instructions of a program that also times so many calls."""
    command = [*emulator, str(program), "--time", str(calls), str(vectors)]
    return _printed(command)


def _printed(command: Sequence[str]) -> int:
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL
    )
    found = re.search(r"^instructions (\d+)$", done.stderr, re.MULTILINE)
    assert found is not None, done.stderr
    return int(found[1])


if __name__ == "__main__":
    main()

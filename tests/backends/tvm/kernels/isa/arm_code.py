"""What LLVM makes of kernels for ARM CPUs, as text."""

from __future__ import annotations

import re

import numpy as np
import tvm

from qpc.backends.tvm.codegen.c_functions import lower_kernels
from qpc.backends.tvm.codegen.objects import CODEGEN_OPTIONS, tvm_target
from qpc.backends.tvm.kernels.conv.conv2d import conv2d
from qpc.backends.tvm.kernels.conv.conv_plan import LayerConstants
from qpc.backends.tvm.kernels.geometry import Conv2dDesc
from qpc.backends.tvm.kernels.isa.choose import isa_for
from qpc.targets import Target

_JUMP = re.compile(r"(?:b\.?\w+|cbn?z|tbn?z)\s+(?:.*,\s*)?(\.LBB\w+)$")
_ON_STACK = re.compile(r"\bsp\b")


def assembly(target: Target, channels: int = 64, size: int = 28, groups: int = 1) -> str:
    """A 3x3 convolution of square images, which has as many outputs as inputs."""
    isa = isa_for(target)
    desc = Conv2dDesc(
        n=1,
        h=size,
        w=size,
        c=channels,
        o=channels,
        kernel=(3, 3),
        padding=(1, 1, 1, 1),
        groups=groups,
        dtype=isa.activation,
    )
    weight = np.ones((channels, channels // groups, 3, 3), np.int8)
    bias, multiplier = np.zeros(channels, np.int32), np.ones(channels, np.float32)
    kernel = conv2d(isa, desc, LayerConstants(weight, bias, multiplier))
    chosen = tvm_target(target)
    with chosen, tvm.transform.PassContext(opt_level=3, config=CODEGEN_OPTIONS):
        lowered = lower_kernels(tvm.IRModule({kernel.name: kernel.func}), chosen)
        return str(tvm.get_global_func("target.build.llvm")(lowered, chosen).inspect_source("asm"))


def innermost_loops(text: str) -> list[list[str]]:
    """The instructions from each label that a later line jumps back to, without labels between."""
    loops, lines, label = [], list[str](), ""
    for line in map(str.strip, text.split("\n")):
        if found := re.match(r"(\.LBB\w+):", line):
            lines, label = [], found[1]
        elif re.match(r"[a-z]", line):
            lines.append(line.replace("\t", " "))
            if (jump := _JUMP.match(lines[-1])) and jump[1] == label:
                loops.append(lines)
                lines, label = [], ""
    return loops


def loops_with(text: str, *instructions: str) -> list[list[str]]:
    """The innermost loops that hold one of these instructions."""
    return [
        loop
        for loop in innermost_loops(text)
        if any(line.split(" ", 1)[0] in instructions for line in loop)
    ]


def share(loop: list[str], *instructions: str) -> float:
    """How much of a loop is one of these instructions."""
    return sum(line.split(" ", 1)[0] in instructions for line in loop) / len(loop)


def on_stack(loop: list[str]) -> list[str]:
    """The instructions that use memory on the stack."""
    return [line for line in loop if _ON_STACK.search(line)]

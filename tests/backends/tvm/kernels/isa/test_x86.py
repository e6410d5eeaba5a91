"""What the compiler makes of the innermost loop; also for CPUs that this machine is not."""

from __future__ import annotations

import re

import numpy as np
import pytest

pytest.importorskip("tvm", reason="needs Apache TVM")

import tvm

from qpc.backends.tvm.kernels.conv.conv2d import conv2d
from qpc.backends.tvm.kernels.conv.conv_plan import LayerConstants
from qpc.backends.tvm.kernels.epilogue import AddTensor, Epilogue
from qpc.backends.tvm.kernels.geometry import Conv2dDesc
from qpc.backends.tvm.kernels.isa.choose import isa_for
from qpc.targets import Target

pytestmark = pytest.mark.tvm


def assembly(
    desc: Conv2dDesc, target: Target, epilogue: Epilogue = (), threads: int = 1, value: int = 127
) -> str:
    weight = np.full((desc.o, desc.c // desc.groups, *desc.kernel), value, np.int8)
    bias, multiplier = np.zeros(desc.o, np.int32), np.ones(desc.o, np.float32)
    kernel = conv2d(
        isa_for(target), desc, LayerConstants(weight, bias, multiplier), epilogue, threads
    )
    llvm = {"kind": "llvm", "mtriple": target.triple, "mattr": list(target.mattr)}
    module = tvm.compile(tvm.IRModule({kernel.name: kernel.func}), target=tvm.target.Target(llvm))
    return str(module.mod.inspect_source("asm"))


def innermost_loops(text: str) -> list[list[str]]:
    """The instructions from each label that a later line jumps back to, without labels between."""
    lines = [line.strip() for line in text.split("\n") if not line.startswith(".Ltmp")]
    loops, start, label = [], 0, ""
    for number, line in enumerate(lines):
        if found := re.match(r"(\.LBB\w+):", line):
            start, label = number + 1, found[1]
        elif label and re.match(rf"j\w+\s+{re.escape(label)}$", line):
            loops.append(lines[start : number + 1])
    return loops


@pytest.mark.parametrize("name", ["x86-64-sse4", "x86-64-avx2", "x86-64-avx512"])
@pytest.mark.parametrize(
    ("row", "greatest", "exact"),
    [
        ([64, 64, 127, 1], 255, True),
        ([-64, -64, -1, -127, -128], 255, True),
        ([127, -127, -128, 127], 255, True),  # they never add up
        ([0, 127, 127, 0], 255, True),  # neighbours, but not of one pair
        ([64, 65], 255, False),
        ([0, 0, 127, 2], 255, False),
        ([-64, -65], 255, False),
        ([-128, -1], 255, False),
        ([64, 65, -129 + 64, -64], 254, True),
        ([127, 127, -127, -127], 127, True),
        ([-128, -128], 128, True),
        ([127, 127], 130, False),
        ([], 255, True),
    ],
)
def test_instructions_that_saturate_are_for_pairs_that_cannot_get_there(
    name: str, row: list[int], greatest: int, exact: bool
) -> None:
    isa = isa_for(Target.parse(name))
    rows = np.array([[0] * len(row), row], np.int8)
    pairs = np.pad(rows, [(0, 0), (0, len(row) % 2)]).reshape(2, -1, 2).astype(int)
    sums = greatest * np.stack([pairs.clip(min=0).sum(2), pairs.clip(max=0).sum(2)])
    assert exact == bool(((sums >= -(2**15)) & (sums < 2**15)).all())
    found = isa.exact_for(rows, greatest, deepest=4)
    assert [each.depth for each in found] == ([4, 2] if exact else [2])
    assert found[-1] is isa


@pytest.mark.parametrize(
    ("row", "greatest", "exact"),
    [
        ([32, 32, 64, 0, 32, 32, 0, 64], 255, True),
        ([32, 32, 0, 0, 32, 33, 0, 0], 255, False),
        ([-33, -32, 0, 0, -32, -32], 255, False),
        ([127, 0, 0, 0, -128, 1], 255, True),
        ([0, 0, 0, 0, 64, 64, 0, 0, 64, 64], 255, True),  # not of one sum
        ([63, 63, 63, 63, 63, 63, 63, 63], 130, True),
        ([], 255, True),
    ],
)
def test_two_pairs_share_a_sum_of_16_bits_where_it_cannot_saturate(
    row: list[int], greatest: int, exact: bool
) -> None:
    rows = np.array([[0] * len(row), row], np.int8)
    depths = [each.depth for each in isa_for(Target.parse("x86-64-avx2")).exact_for(rows, greatest)]
    assert (8 in depths) == exact
    sse = isa_for(Target.parse("x86-64-sse4")).exact_for(rows, greatest)
    assert 8 not in [each.depth for each in sse]  # it would gain nothing


@pytest.mark.parametrize("name", ["x86-64", "x86-64-avx512-vnni"])
def test_other_instructions_take_any_weights(name: str) -> None:
    isa = isa_for(Target.parse(name))
    assert isa.exact_for(np.zeros(1, np.int8)) == (isa,)


@pytest.mark.every(4)
@pytest.mark.parametrize(
    ("name", "instruction", "lanes"),
    [
        ("x86-64-sse4", "pmaddwd", "xmm"),
        ("x86-64-avx2", "vpmaddwd", "ymm"),
        ("x86-64-avx512", "vpmaddwd", "zmm"),
        ("x86-64-avx-vnni", "{vex}\tvpdpbusd", "ymm"),
        ("x86-64-avx512-vnni-256", "vpdpbusd", "ymm"),
        ("x86-64-avx512-vnni", "vpdpbusd", "zmm"),
    ],
)
@pytest.mark.parametrize("filtered", [False, True])
def test_the_inner_loop_of_a_convolution_is_dots_and_loads(
    filtered: bool, name: str, instruction: str, lanes: str
) -> None:
    target = Target.parse(name)
    stride = (1, 1) if filtered else (2, 2)  # with a stride, there is no minimal filtering
    instruction = instruction.replace("dpbusd", "dpwssd") if filtered else instruction
    desc = Conv2dDesc(
        n=1, h=28, w=28, c=64, o=64, kernel=(3, 3), padding=(1, 1, 1, 1), stride=stride
    )
    loops = [
        loop for loop in innermost_loops(assembly(desc, target)) if instruction in "\n".join(loop)
    ]
    assert loops
    for loop in loops:
        dots = [line for line in loop if line.startswith(instruction)]
        assert len(dots) >= 8
        assert all(lanes in line for line in dots)
        spilled = [line for line in loop if "(%rsp" in line or re.match(r"v?mov.*\)$", line)]
        assert not spilled
        # Besides the products: additions, loads, copies of registers, and control of the loop.
        others = [line for line in loop if line not in dots]
        assert not [line for line in others if re.match(r"v?p(mov|unpck|and|srl|shufb)", line)]


@pytest.mark.parametrize(("value", "pieces"), [(64, 1), (32, 2)])
@pytest.mark.parametrize("name", ["x86-64-avx2", "x86-64-avx512"])
def test_the_inner_loop_of_pairs_of_bytes_widens_a_sum_once(
    name: str, value: int, pieces: int
) -> None:
    desc = Conv2dDesc(n=1, h=28, w=28, c=64, o=64, kernel=(3, 3), stride=(2, 2))
    text = assembly(desc, Target.parse(name), value=value)
    loops = [loop for loop in innermost_loops(text) if "vpmaddubsw" in "\n".join(loop)]
    assert loops
    for loop in loops:
        counts = [
            sum(line.startswith(name) for line in loop) for name in ("vpmaddubsw", "vpmaddwd")
        ]
        assert counts[0] == pieces * counts[1]
        assert counts[1] >= 6
        assert not [line for line in loop if "(%rsp" in line or re.match(r"v?mov.*\)$", line)]


@pytest.mark.parametrize(("channels", "threads"), [(80, 2), (81, 1)])
def test_numbers_of_the_epilogue_leave_registers_to_the_sums(channels: int, threads: int) -> None:
    """With these, LLVM once kept them in registers from before the sums until after."""
    desc = Conv2dDesc(n=1, h=28, w=28, c=channels, o=channels, kernel=(3, 3), padding=(1, 1, 1, 1))
    add = (AddTensor(0, 0, 1, 1, 1, 0),)
    text = assembly(desc, Target.parse("x86-64-avx512-vnni"), add, threads)
    loops = [loop for loop in innermost_loops(text) if "vpdpwssd" in "\n".join(loop)]
    assert loops
    assert not [line for loop in loops for line in loop if "(%rsp" in line]


def test_the_inner_loop_of_matrix_registers_stores_outputs_beside_its_dots() -> None:
    desc = Conv2dDesc(n=1, h=56, w=56, c=64, o=64, kernel=(3, 3), padding=(1, 1, 1, 1))
    text = assembly(desc, Target.parse("x86-64-amx"))
    assert text.count("ldtilecfg") == text.count("tilerelease") == 1
    blocks = re.split(r"\n\.LBB\w+:", text)
    counts = [(block.count("tdpbusd"), block.count("tileloadd")) for block in blocks]
    assert (4, 4) in counts  # two loads of pixels, two of weights

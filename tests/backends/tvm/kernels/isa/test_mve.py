from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

pytest.importorskip("tvm", reason="Apache TVM is not installed")

import torch
from tvm.tirx.script import builder as T

import qpc
from qpc.backends.deploy import bare_metal
from qpc.backends.deploy.c_helpers import HEAD, helpers_for
from qpc.backends.deploy.toolchain import Program, build, compiler_for, emulator_for
from qpc.backends.tvm.kernels.isa.mve import Mve, MveRows
from qpc.targets import Target
from tests.emulation import assert_exact, require, require_tools
from tests.generators import IntegerGraph

pytestmark = pytest.mark.tvm

STRICT = ["-std=c99", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-pedantic"]
# Sums and factors whose products lie between integers, are huge, and are neither.
CHECKS = """
static int wrong;

static void expect(const int8_t *found, const int32_t *wanted)
{
    int i;
    for (i = 0; i < 4; i++) wrong += found[i] != wanted[i];
}

static int32_t rounded(int32_t sum, float factor, int32_t zero_point, int32_t lo, int32_t hi)
{
    float value = (float)sum * factor;
    if (value < (float)(lo - zero_point)) return lo;
    if (value > (float)(hi - zero_point)) return hi;
    return (int32_t)rintf(value) + zero_point;
}

int main(void)
{
    static const float factors[] = {0.5f, 0.25f, 1.5f, 0.0078125f, 3e-5f, 1e-42f, 3e4f};
    static const int32_t sums[] = {0, 1, -1, 3, 5, 7, -7, 127, 128, -255, 2147483647, -2147483647};
    int8_t bytes[16], others[16], found[4], table[256];
    int i, j, k;
    for (i = 0; i < 12; i++)
        for (j = 0; j < 7; j++) {
            int32_t in[4], wanted[4];
            float by[4];
            for (k = 0; k < 4; k++) in[k] = sums[(i + k) % 12], by[k] = factors[(j + k) % 7];
            for (k = 0; k < 4; k++) wanted[k] = rounded(in[k], by[k], -3, -100, 110);
            store_bytes4(found, requantize_four(load_words4(in), load_floats4(by), -3, -100, 110));
            expect(found, wanted);
            store_bytes4(found, requantize_four(four_words(in[0], in[1], in[2], in[3]),
                                                four_floats(by[0], by[1], by[2], by[3]), -3, -100,
                                                110));
            expect(found, wanted);
        }
    for (i = 0; i < 256; i++) table[i] = (int8_t)(i ^ 0x55);
    for (i = -128; i < 125; i++) {
        int32_t wanted[4], total = 2147483647;
        uint32_t sum = 2147483647u;
        words4 all, rest;
        for (k = 0; k < 16; k++) bytes[k] = (int8_t)(i + k / 4), others[k] = (int8_t)(-128 + k);
        all = load_bytes4(bytes), rest = load_bytes4(others);
        for (k = 0; k < 4; k++) wanted[k] = table[bytes[k] + 128];
        store_bytes4(found, look_up_four(table, all));
        expect(found, wanted);
        for (k = 0; k < 4; k++) wanted[k] = bytes[k] < -5 ? -5 : bytes[k] > 9 ? 9 : bytes[k];
        store_bytes4(found, clamp_four(all, -5, 9));
        expect(found, wanted);
        for (k = 0; k < 4; k++)
            wanted[k] = bounded(((bytes[k] * 300 - others[k] * 77 + 55) >> 9) + 2, -60, 60);
        store_bytes4(found, add_four(all, rest, 300, -77, 55, 9, 2, -60, 60));
        expect(found, wanted);
        for (k = 0; k < 4; k++) wanted[k] = bounded(bytes[k] * others[k] + bytes[k], -128, 127);
        store_bytes4(found, clamp_four(add_four_products(all, all, rest), -128, 127));
        expect(found, wanted);
        for (k = 0; k < 16; k++) sum += (uint32_t)(bytes[k] * others[k]);
        total = add_sixteen_products(total, load_bytes16(bytes), load_bytes16(others));
        wrong += (uint32_t)total != sum;
    }
    printf("%d wrong\\n", wrong);
    return wrong != 0;
}
"""


def _program() -> str:
    head = HEAD.replace('#include "@name@.h"\n', "#include <stdint.h>\n#include <stdio.h>\n")
    return head + "".join(helpers_for(CHECKS)) + CHECKS


def test_plain_c_says_what_vectors_are_to_do(tmp_path: Path) -> None:
    require("gcc")
    (tmp_path / "main.c").write_text(_program())
    command = ["gcc", *STRICT, str(tmp_path / "main.c"), "-o", str(tmp_path / "main"), "-lm"]
    subprocess.run(command, check=True)
    done = subprocess.run([tmp_path / "main"], capture_output=True, text=True, check=False)
    assert done.stdout == "0 wrong\n"


@pytest.mark.arm
def test_instructions_do_what_plain_c_says(tmp_path: Path) -> None:
    target = Target.parse("cortex-m55")
    require_tools(target)
    assert target.emulated is not None
    for name, text in {"main.c": _program(), **bare_metal.files(target.emulated)}.items():
        (tmp_path / name).write_text(text)
    options = [*STRICT[:-1], *bare_metal.OPTIONS[:-1], str(tmp_path / bare_metal.SCRIPT), "-lm"]
    sources = [tmp_path / "main.c", tmp_path / bare_metal.START]
    build(sources, tmp_path / "main", compiler_for(target), options)
    done = Program(tmp_path / "main", emulator_for(target)).run(seconds=60)
    assert done.stdout == "0 wrong\n"


def test_tiles_are_four_channels_or_one() -> None:
    isa = Mve("mve", 1, 8, activation="int8")
    fits = [(p, v) for p in range(1, 6) for v in range(1, 6) if isa.accumulators_fit(p, v)]
    assert fits == [(1, 1), (1, 4), (2, 1), (3, 1), (4, 1)]
    assert isinstance(isa.by_rows, MveRows)


def test_only_four_values_are_requantized_together() -> None:
    one = [T.IntImm("int32", 1)]
    assert Mve("mve", 1, 8, activation="int8").requantized(one, one, one * 3) is None


def _all_kinds() -> torch.fx.GraphModule:
    g = IntegerGraph()
    x = g.conv2d(g.quantize(g.input(3, 9, 8)), 8, padding=(1, 1))
    deep = g.conv2d(x, 8, padding=(1, 1), groups=8)
    a = g.lookup(g.add(g.conv2d(deep, 8, padding=(1, 1)), x))
    return g.module(g.dequantize(g.linear(g.mean(g.conv2d(a, 6), (2, 3)), 5)))


@pytest.mark.arm
def test_convolutions_are_exact_on_any_machine(tmp_path: Path) -> None:
    require("gcc")
    out = tmp_path / "net"
    qpc.export_library(_all_kinds(), "cortex-m55", out, name="net", form="c")
    text = (out / "net.c").read_text()
    names = ["add_sixteen_products", "add_four_products"]
    names += ["requantize_four", "add_four", "look_up_four"]
    assert [name for name in names if f"{name}(" not in text] == []
    sources = [str(out / name) for name in ("net.c", "main.c")]
    subprocess.run(["gcc", *STRICT, *sources, "-o", str(tmp_path / "main"), "-lm"], check=True)
    done = subprocess.run(
        [tmp_path / "main", out / "vectors.bin"], capture_output=True, text=True, check=False
    )
    assert done.stdout == "2 cases, all equal\n"


@pytest.mark.arm
@pytest.mark.thorough
def test_convolutions_are_exact_with_vectors(tmp_path: Path) -> None:
    assert_exact(_all_kinds(), "cortex-m55", tmp_path, form="c")

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

pytest.importorskip("tvm", reason="Apache TVM is not installed")

from qpc.backends.deploy.c_helpers import HEAD, helpers_for
from tests.emulation import assert_exact, require
from tests.generators import IntegerGraph

pytestmark = pytest.mark.tvm

# Factors of all sizes; sums about the middles of integers, about where floats have no room for
# them, and at random.
PROGRAM = """
static uint32_t state = 1;
static long checked, wrong;

static uint32_t number(void)
{
    state = state * 1664525u + 1013904223u;
    return state ^ state >> 15;
}

static void check(int64_t wide, float factor, int32_t zero_point, int32_t lo, int32_t hi)
{
    int32_t sum = wide > 2147483647 ? 2147483647 : wide < -2147483647 ? -2147483647 : (int32_t)wide;
    float value = (float)sum * factor;
    int32_t expected;
    value = fmaxf(value, (float)(lo - zero_point));
    value = fminf(value, (float)(hi - zero_point));
    expected = (int32_t)rintf(value) + zero_point;
    checked++;
    wrong += requantize(sum, factor, zero_point, lo, hi) != expected;
}

static void check_factor(float factor)
{
    static const int32_t edges[] = {0, 1, 255, 16777215, 16777216, 16777217, 33554433, 2147483647};
    int i, j;
    for (i = 0; i < 8; i++)
        for (j = -1; j < 2; j += 2) check((int64_t)edges[i] * j, factor, 128, 0, 255);
    for (i = 0; i < 600; i++) {
        double middle = ((double)(i - 300) + 0.5) / (double)factor;
        if (fabs(middle) < 2e9)
            for (j = -2; j < 3; j++) check((int64_t)llround(middle) + j, factor, -3, -128, 127);
        check((int32_t)number() >> number() % 32, factor, 7, 0, 255);
    }
}

int main(void)
{
    static const uint32_t ends[] = {0, 1, 0x400000, 0x400001, 0x7fffff};
    uint32_t exponent;
    int i;
    for (exponent = 0; exponent < 160; exponent++) {
        for (i = 0; i < 5; i++) check_factor(as_float((int32_t)(exponent << 23 | ends[i])));
        for (i = 0; i < 20; i++)
            check_factor(as_float((int32_t)(exponent << 23 | (number() & 0x7fffff))));
    }
    printf("%ld wrong of %ld\\n", wrong, checked);
    return wrong != 0;
}
"""


def test_integers_give_what_floats_give(tmp_path: Path) -> None:
    require("gcc")
    head = HEAD.replace('#include "@name@.h"\n', "#include <stdint.h>\n#include <stdio.h>\n")
    (tmp_path / "main.c").write_text(head + "".join(helpers_for(PROGRAM)) + PROGRAM)
    strict = ["-std=c99", "-O2", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-pedantic"]
    command = ["gcc", *strict, str(tmp_path / "main.c"), "-o", str(tmp_path / "main"), "-lm"]
    subprocess.run(command, check=True)
    done = subprocess.run([tmp_path / "main"], capture_output=True, text=True, check=False)
    assert done.stdout.startswith("0 wrong of ")
    assert int(done.stdout.split()[-1]) > 4_000_000


@pytest.mark.arm
@pytest.mark.thorough
@pytest.mark.parametrize("core", ["cortex-m0plus", "cortex-m3"])
def test_layers_are_exact_without_a_unit_for_floats(tmp_path: Path, core: str) -> None:
    g = IntegerGraph()
    x = g.conv2d(g.quantize(g.input(3, 9, 8)), 8, padding=(1, 1))
    deep = g.add(g.conv2d(x, 8, padding=(1, 1), groups=8), x)
    gm = g.module(g.dequantize(g.linear(g.mean(deep, (2, 3)), 5)))
    out = assert_exact(gm, core, tmp_path, form="c")
    assert "requantize(" in (out / "net.c").read_text()

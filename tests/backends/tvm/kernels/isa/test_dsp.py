from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("tvm", reason="Apache TVM is not installed")

import tvm

import qpc
from qpc.backends.deploy import bare_metal
from qpc.backends.deploy.c_helpers import HEAD, helpers_for
from qpc.backends.deploy.c_helpers import HELPERS as ALL
from qpc.backends.deploy.toolchain import Program, build, compiler_for, emulator_for
from qpc.backends.tvm.codegen.c_functions import lower_kernels
from qpc.backends.tvm.codegen.c_scalars import in_scalars
from qpc.backends.tvm.kernels.emit import Flat, bind, prim_func
from qpc.backends.tvm.kernels.isa.dsp import Dsp
from qpc.backends.tvm.kernels.kernel import TensorType
from qpc.targets import Target
from tests.emulation import require, require_tools
from tests.generators import IntegerGraph

pytestmark = pytest.mark.tvm

STRICT = ["-std=c99", "-Wall", "-Wextra", "-Wconversion", "-Werror"]
HELPERS = ("load_word", "load_two_words", "signed_pair", "add_products")
# All pairs of bytes, and a sum that wraps around.
PROGRAM = """
#include <stdint.h>
#include <stdio.h>
#include <string.h>
@helpers@
int main(void)
{
    int a, b, wrong = 0;
    for (a = 0; a < 256; a++)
        for (b = -128; b < 128; b++) {
            int16_t x[5] = {0, (int16_t)a, 255, -128, (int16_t)(127 - a)};
            int8_t w[4] = {(int8_t)b, 127, -128, (int8_t)(-1 - b)};
            int64_t words = load_two_words(x + 1);
            int32_t weights = load_word(w), sum = 2147483647;
            uint32_t expected = 2147483647u;
            expected += (uint32_t)(x[1] * w[0] + x[2] * w[2] + x[3] * w[1] + x[4] * w[3]);
            sum = add_products((int32_t)words, signed_pair(weights, 0), sum);
            sum = add_products((int32_t)(words >> 32), signed_pair(weights, 1), sum);
            wrong += (uint32_t)sum != expected;
        }
    printf("%d wrong\\n", wrong);
    return wrong != 0;
}
"""
# Sums and factors whose products lie between integers, at the ends of bytes, beyond, and far away.
OUTPUTS = """
static int wrong;

static void check(int32_t sum, float factor, int32_t zero_point)
{
    double value = rint((double)((float)sum * factor)) + zero_point;
    value = value < 0 ? 0 : value > 255 ? 255 : value;
    wrong += requantize_to_uint8(sum, factor, zero_point) != value;
    value = rint((double)((float)sum * factor)) + zero_point - 128;
    value = value < -128 ? -128 : value > 127 ? 127 : value;
    wrong += requantize_to_int8(sum, factor, zero_point - 128) != value;
}

int main(void)
{
    static const float factors[] = {0.5f, 0.25f, 1.5f, 0.0078125f, 3e-5f, 1e-42f, 3e4f, 1e38f};
    static const int32_t edges[] = {8388607, 16777217, 1073741824, 2147483647};
    int32_t sum;
    int i, j, zero_point;
    for (i = 0; i < 8; i++)
        for (zero_point = 0; zero_point < 256; zero_point += 51) {
            for (sum = -1100; sum <= 1100; sum++) check(sum, factors[i], zero_point);
            for (j = 0; j < 4; j++)
                check(edges[j], factors[i], zero_point), check(-edges[j], factors[i], zero_point);
        }
    printf("%d wrong\\n", wrong);
    return wrong != 0;
}
"""


def outputs_program() -> str:
    head = HEAD.replace('#include "@name@.h"\n', "#include <stdint.h>\n#include <stdio.h>\n")
    return head + "".join(helpers_for(OUTPUTS)) + OUTPUTS


def test_outputs_are_rounded_and_cut_on_any_machine(tmp_path: Path) -> None:
    require("gcc")
    (tmp_path / "main.c").write_text(outputs_program())
    command = ["gcc", *STRICT, "-pedantic", str(tmp_path / "main.c"), "-o", str(tmp_path / "main")]
    subprocess.run([*command, "-lm"], check=True)
    done = subprocess.run([tmp_path / "main"], capture_output=True, text=True, check=False)
    assert done.stdout == "0 wrong\n"


@pytest.mark.arm
@pytest.mark.parametrize("core", ["cortex-m4", "cortex-m7"])
def test_outputs_are_rounded_and_cut_by_instructions(tmp_path: Path, core: str) -> None:
    target = Target.parse(core)
    require_tools(target)
    assert target.emulated is not None
    for name, text in {"main.c": outputs_program(), **bare_metal.files(target.emulated)}.items():
        (tmp_path / name).write_text(text)
    options = [*STRICT, *bare_metal.OPTIONS[:-1], str(tmp_path / bare_metal.SCRIPT), "-lm"]
    sources = [tmp_path / "main.c", tmp_path / bare_metal.START]
    build(sources, tmp_path / "main", compiler_for(target), options)
    done = Program(tmp_path / "main", emulator_for(target)).run(seconds=60)
    assert done.stdout == "0 wrong\n"


@pytest.mark.arm
@pytest.mark.parametrize(("ends", "cut"), [((0, 255), True), ((0, 200), False)])
def test_outputs_that_may_be_any_byte_are_cut(
    tmp_path: Path, ends: tuple[int, int], cut: bool
) -> None:
    g = IntegerGraph(3)
    layer = g.conv2d(g.image(4, 5, 5), 4)
    layer.args = (*layer.args[:-2], *ends)
    gm = g.module(layer)
    qpc.export_library(gm, "cortex-m4", tmp_path / "net", name="net", form="c")
    assert ("requantize_to_uint8(" in (tmp_path / "net" / "net.c").read_text()) == cut


def test_other_machines_compute_what_the_instructions_do(tmp_path: Path) -> None:
    require("gcc")
    text = PROGRAM.replace("@helpers@", "".join(ALL[name] for name in HELPERS))
    (tmp_path / "main.c").write_text(text)
    command = ["gcc", *STRICT, "-pedantic", str(tmp_path / "main.c"), "-o", str(tmp_path / "main")]
    subprocess.run(command, check=True)
    done = subprocess.run([tmp_path / "main"], capture_output=True, text=True, check=False)
    assert done.stdout == "0 wrong\n"


@pytest.mark.parametrize("activation", ["uint8", "int8"])
def test_four_products_are_two_calls_on_words(activation: str) -> None:
    isa = Dsp("dsp", 1, 10, activation=activation)

    def body(x: Flat, w: Flat, y: Flat) -> None:
        weights = bind(w.load(4, 4))
        y.store(0, isa.dot(y.load(0), bind(isa.broadcast(x.load(3, 4))), weights))

    tensors = [TensorType((8,), isa.x_type), TensorType((8,), "int8"), TensorType((1,), "int32")]
    target = tvm.target.Target({"kind": "c"})
    with target, tvm.transform.PassContext(opt_level=3):
        module = tvm.IRModule({tvm.ir.GlobalVar("kernel"): prim_func("kernel", tensors, body)})
        lowered = lower_kernels(module, target)
        plain = {gv: in_scalars(f) for gv, f in lowered.functions_items()}
        build = tvm.get_global_func("target.build.c")
        text = build(tvm.IRModule(plain), target).inspect_source()
    assert "load_two_words((&(arg0_ptr[3])))" in text
    assert "load_word((&(arg1_ptr[4])))" in text
    assert text.count("= add_products(") == 1


def test_as_many_sums_fit_as_registers_are_left_by_pairs_of_weights_and_activations() -> None:
    isa = Dsp("dsp", 1, 10)
    fits = {(p, v) for p in range(1, 9) for v in range(1, 9) if isa.accumulators_fit(p, v)}
    assert fits == {(1, 1), (2, 1), (3, 1), (4, 1), (5, 1), (6, 1), (1, 2), (2, 2)}


def test_loads_are_shared_by_the_sums_of_a_step() -> None:
    isa = Dsp("dsp", 1, 10)
    times = [isa.step_time(*size) / (size[0] * size[1]) for size in ((1, 1), (4, 1), (2, 2))]
    assert times == [5.5, 2.875, 2.75]  # of two instructions for two products each


def test_sums_over_rows_take_bytes_one_by_one() -> None:
    assert Dsp("dsp", 1, 10).by_rows.depth == 1


def test_pairs_of_weights_meet_the_activations_of_pairs() -> None:
    weight = np.arange(8, dtype=np.int8).reshape(2, 1, 4)
    assert Dsp("dsp", 1, 10).arranged(weight).tolist() == [[[0, 2, 1, 3]], [[4, 6, 5, 7]]]

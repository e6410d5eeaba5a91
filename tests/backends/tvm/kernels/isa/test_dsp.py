from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

pytest.importorskip("tvm", reason="Apache TVM is not installed")

import tvm

from qpc.backends.deploy.c_helpers import HELPERS as ALL
from qpc.backends.tvm.codegen.c_functions import lower_kernels
from qpc.backends.tvm.codegen.c_scalars import in_scalars
from qpc.backends.tvm.kernels.emit import Flat, bind, prim_func
from qpc.backends.tvm.kernels.isa.dsp import Dsp
from qpc.backends.tvm.kernels.kernel import TensorType
from tests.emulation import require

pytestmark = pytest.mark.tvm

HELPERS = ("load_word", "unsigned_pair", "signed_pair", "add_products")
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
            uint8_t x[5] = {0, (uint8_t)a, 255, 3, (uint8_t)(255 - a)};
            int8_t w[4] = {(int8_t)b, -128, 127, (int8_t)(-1 - b)};
            int32_t word = load_word(x + 1), weights = load_word(w), sum = 2147483647;
            uint32_t expected = 2147483647u;
            int i;
            for (i = 0; i < 4; i++) expected += (uint32_t)((int)x[i + 1] * w[i]);
            sum = add_products(unsigned_pair(word, 0), signed_pair(weights, 0), sum);
            sum = add_products(unsigned_pair(word, 1), signed_pair(weights, 1), sum);
            wrong += (uint32_t)sum != expected;
        }
    printf("%d wrong\\n", wrong);
    return wrong != 0;
}
"""


def test_other_machines_compute_what_the_instructions_do(tmp_path: Path) -> None:
    require("gcc")
    text = PROGRAM.replace("@helpers@", "".join(ALL[name] for name in HELPERS))
    (tmp_path / "main.c").write_text(text)
    strict = ["-std=c99", "-Wall", "-Wextra", "-Wconversion", "-Werror", "-pedantic"]
    command = ["gcc", *strict, str(tmp_path / "main.c"), "-o", str(tmp_path / "main")]
    subprocess.run(command, check=True)
    done = subprocess.run([tmp_path / "main"], capture_output=True, text=True, check=False)
    assert done.stdout == "0 wrong\n"


@pytest.mark.parametrize(("activation", "pair"), [("uint8", "unsigned"), ("int8", "signed")])
def test_four_products_are_two_calls_on_words(activation: str, pair: str) -> None:
    isa = Dsp("dsp", 1, 7, activation=activation)

    def body(x: Flat, w: Flat, y: Flat) -> None:
        weights = bind(w.load(4, 4))
        y.store(0, isa.dot(y.load(0), bind(isa.broadcast(x.load(3, 4))), weights))

    tensors = [TensorType((8,), activation), TensorType((8,), "int8"), TensorType((1,), "int32")]
    target = tvm.target.Target({"kind": "c"})
    with target, tvm.transform.PassContext(opt_level=3):
        module = tvm.IRModule({tvm.ir.GlobalVar("kernel"): prim_func("kernel", tensors, body)})
        lowered = lower_kernels(module, target)
        plain = {gv: in_scalars(f) for gv, f in lowered.functions_items()}
        build = tvm.get_global_func("target.build.c")
        text = build(tvm.IRModule(plain), target).inspect_source()
    assert "load_word((&(arg0_ptr[3])))" in text
    assert "load_word((&(arg1_ptr[4])))" in text
    assert f"{pair}_pair(" in text


def test_sums_over_rows_take_bytes_one_by_one() -> None:
    assert Dsp("dsp", 1, 7).by_rows.depth == 1

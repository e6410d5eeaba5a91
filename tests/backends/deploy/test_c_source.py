"""A library as one file of C: what it looks like, and that it computes the same."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

pytest.importorskip("tvm", reason="Apache TVM is not installed")

import qpc
from qpc.backends.deploy.c_blob import Blob
from qpc.backends.deploy.c_source import c_source, write_c
from qpc.backends.deploy.manifest import read_library
from qpc.backends.deploy.verify import Where, verify
from qpc.backends.tvm.codegen.c_text import CFunction, Parameter
from qpc.errors import BackendError
from tests.backends.deploy.conftest import small_graph
from tests.backends.deploy.models import deployable
from tests.emulation import assert_exact, require
from tests.small_models import Call

pytestmark = [pytest.mark.tvm, pytest.mark.arm]
WARNINGS = "-Wall -Wextra -Wconversion -Werror -std=c99 -pedantic"

make = CFunction(
    "make",
    (Parameter("float", "a"), Parameter("int8_t", "b"), Parameter("uint8_t", "c")),
    "  c[0] = ((uint8_t)b[0]);\n  (void)a;\n",
    frozenset(),
)
end = CFunction(
    "end",
    (Parameter("uint8_t", "a"), Parameter("int32_t", "b"), Parameter("uint8_t", "scratch")),
    "  b[0] = as_integer(as_float(a[0]));\n  (void)scratch;\n",
    frozenset({"erff"}),
)
FUNCTIONS = {"make": make, "end": end}


def test_it_reads_as_what_it_computes() -> None:
    text = c_source(deployable(), FUNCTIONS)
    assert "/* 8, of make: conv1 */\nstatic const int8_t layer_1_constant_1[8] = {" in text
    assert "    0, 1, 2, 3, 4, 5, 6, 7\n};" in text
    assert "/* end: pool */\nstatic void end_2(const uint8_t *restrict a,\n" in text
    assert "    /* 1: make: conv1 */\n    make_1(inputs[0], layer_1_constant_1, AT(64));" in text
    assert "    end_2(AT(64), outputs[0], AT(192));\n    return NET_OK;\n}" in text
    assert "if (arena_bytes < NET_ARENA_BYTES) return NET_ERROR_ARENA_SIZE;" in text


def test_what_reads_and_writes_at_one_address_is_not_restricted() -> None:
    model = deployable()
    first, second = model.entry.calls
    moved = replace(second, writes=second.reads)
    text = c_source(replace(model, entry=replace(model.entry, calls=(first, moved))), FUNCTIONS)
    assert "    end_2(AT(64), AT(64), AT(192));" in text
    assert "static void end_2(const uint8_t *a,\n" in text
    assert "*restrict b" in text[: text.index("end_2")]


def test_names_of_layers_cannot_end_a_comment() -> None:
    model = deployable()
    first, second = model.steps
    model = replace(model, steps=(replace(first, nodes=("a*/ b",)), second))
    assert "make: a* / b */" in c_source(model, FUNCTIONS)


def test_constants_keep_every_bit() -> None:
    numbers = np.array([-(2**31), 2**31 - 1, -1], np.int32)
    text = c_source(replace(deployable(), weights={"w_1": numbers}), FUNCTIONS)
    assert "    (-2147483647 - 1), 2147483647, -1\n" in text
    assert "(const void *)layer_1_constant_1" in text  # the kernel takes bytes
    floats = np.array([0.1, 1, np.inf, -np.inf, np.nan], np.float32)
    text = c_source(replace(deployable(), weights={"w_1": floats}), FUNCTIONS)
    assert "    0.100000001f, 1.0f, INFINITY, -INFINITY, NAN\n" in text
    wide = np.array([-(2**63), 5], np.int64)
    text = c_source(replace(deployable(), weights={"w_1": wide}), FUNCTIONS)
    assert "    (-9223372036854775807LL - 1), 5LL\n" in text


def test_threads_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="C source runs in one thread"):
        write_c(replace(deployable(), threads=2), [], tmp_path / "net")


def test_every_byte_is_right_and_no_compiler_warns(tmp_path: Path) -> None:
    require("gcc")
    out = tmp_path / "net"
    made = qpc.export_library(small_graph(), "x86-64", out, name="net", form="c")
    assert made.needs == ("memcpy", "memset")
    assert "code not known yet" in made.report
    result = verify(out, Where(compiler=f"gcc {WARNINGS}"))
    assert result.tolerances == (None, None)
    entry, files = read_library(out)
    assert (entry.form, entry.library) == ("c", "net.c")
    assert {"net.c", "net.h", "main.c", "vectors.bin", "CMakeLists.txt"} <= files.keys()
    text = files["net.c"].decode()
    assert not re.search(r"tvm|malloc|\*\(float", text, re.IGNORECASE)
    assert max(map(len, text.splitlines())) < 400
    # Where floats may be computed as if they were real numbers, nothing is computed at all.
    fast = subprocess.run(
        ["gcc", "-ffast-math", "-c", out / "net.c", "-o", tmp_path / "net.o"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "compile without -ffast-math" in fast.stderr


@pytest.mark.thorough
@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_constants_can_lie_beside_the_source(tmp_path: Path, compiler: str) -> None:
    require(compiler)
    out = tmp_path / "net"
    qpc.export_library(small_graph(), "x86-64", out, name="net", form="c", weights="blob")
    verify(out, Where(compiler=f"{compiler} {WARNINGS}"))
    entry, files = read_library(out)
    assert entry.sources == ["net_weights.S"]
    assert b"_constant_" not in files["net.c"]
    assert b"project(net C ASM)" in files["CMakeLists.txt"]


@pytest.mark.thorough
@pytest.mark.parametrize("target", ["aarch64", "cortex-m4"])
def test_constants_beside_the_source_are_assembled_for_any_machine(
    tmp_path: Path, target: str
) -> None:
    assert_exact(small_graph(), target, tmp_path, form="c", weights="blob")


def test_every_constant_begins_where_kernels_may_load_it() -> None:
    blob = Blob.of({"a": np.arange(3, dtype=np.int8), "b": np.array([258], np.int32)})
    assert (blob.offsets["b"], blob.data[16:]) == (16, b"\2\1" + bytes(14))


@pytest.mark.parametrize(("form", "weights"), [("objects", "blob"), ("c", "heap")])
def test_constants_are_nowhere_else(tmp_path: Path, form: str, weights: str) -> None:
    with pytest.raises(BackendError, match="weights must be 'arrays' or 'blob', and 'arrays' but"):
        qpc.export_library(small_graph(), "x86-64", tmp_path, form=form, weights=weights)


@pytest.mark.thorough
@pytest.mark.parametrize("compiler", ["clang", "clang -O3 -march=native", "gcc -O3 -march=native"])
def test_other_compilers_give_the_same(tmp_path: Path, compiler: str) -> None:
    require(compiler.split()[0])
    qpc.export_library(small_graph(), "x86-64", tmp_path / "net", name="net", form="c")
    verify(tmp_path / "net", Where(compiler=f"{compiler} {WARNINGS}"))


@pytest.mark.thorough
@pytest.mark.parametrize(
    "target",
    ["aarch64", "armv7-a", "riscv64", "cortex-m0plus", "cortex-m3", "cortex-m4", "cortex-m55"],
)
def test_other_machines_give_the_same(tmp_path: Path, target: str) -> None:
    assert_exact(small_graph(), target, tmp_path, form="c")


@pytest.mark.thorough
def test_cmake_builds_it(tmp_path: Path) -> None:
    require("cmake", "cc")
    out = tmp_path / "net"
    qpc.export_library(small_graph(), "x86-64", out, name="net", form="c")
    for command in (
        ["cmake", "-S", out, "-B", tmp_path / "build"],
        ["cmake", "--build", tmp_path / "build"],
        ["ctest", "--test-dir", tmp_path / "build"],
    ):
        subprocess.run(list(map(str, command)), check=True, capture_output=True)


FLOATS: dict[str, Callable[[Tensor], Tensor]] = {
    "magnitude": torch.abs,
    "power": lambda x: x.abs() ** 1.5,
    "NaN of negative numbers": torch.sqrt,
    "logarithms": lambda x: torch.log(x) + torch.log1p(x.abs()),
    "extremes": lambda x: x.amax(1) - x.amin(1),
    "a place": lambda x: x.argmax(1).float(),
    "the largest": lambda x: x.topk(2, 1)[0],
    "pool": lambda x: F.max_pool2d(x, 2),
    "slopes": lambda x: F.prelu(x, torch.tensor([0.1, 0.2, 0.3])),
    "choice": lambda x: torch.where(x > 0.1, x, x.mean(1, keepdim=True)),
    "softplus": F.softplus,
    "transposed": lambda x: F.conv_transpose2d(x, torch.ones(3, 2, 3, 2), stride=2, dilation=2),
}


@pytest.mark.every(4)
@pytest.mark.parametrize("function", FLOATS.values(), ids=FLOATS.keys())
def test_float_operators_compile_without_a_warning_and_are_near(
    function: Callable[[Tensor], Tensor], tmp_path: Path
) -> None:
    require("gcc")
    graph = qpc.trace(Call(function), torch.zeros(1, 3, 5, 6))
    qpc.export_library(graph, "x86-64", tmp_path / "net", name="net", form="c", cache=False)
    verify(tmp_path / "net", Where(compiler=f"gcc {WARNINGS}"))

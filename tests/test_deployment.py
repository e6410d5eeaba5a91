from __future__ import annotations

import functools
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("tvm", reason="Apache TVM is not installed")

import qpc
from qpc.backends.deploy.toolchain import build, compiler_for
from qpc.backends.deploy.verify import time_library
from qpc.calls import aten
from qpc.errors import ArtifactError, BackendError, UnsupportedTargetError
from qpc.targets import Target
from tests.edge_networks import NETWORKS
from tests.emulation import ARCHITECTURES, assert_exact, require, require_tools, run
from tests.emulation_batch import assert_all_exact
from tests.generators import IntegerGraph
from tests.robustness.foreign_graphs import FORMS

pytestmark = [pytest.mark.tvm, pytest.mark.arm]


def linear(seed: int = 0) -> torch.fx.GraphModule:
    g = IntegerGraph(seed)
    return g.module(g.linear(g.image(8), 4))


MISUSE = """
#include "first.h"
#include "second.h"
#include <stdio.h>

static union { double aligned[1]; unsigned char bytes[FIRST_ARENA_BYTES + 128]; } memory;
static unsigned char x[FIRST_INPUT_0_BYTES];
static union { float aligned; unsigned char bytes[FIRST_OUTPUT_0_BYTES + 4]; } y;
static unsigned char x2[SECOND_INPUT_0_BYTES], y2[SECOND_OUTPUT_0_BYTES];

int main(void)
{
    unsigned char *arena = memory.bytes;
    const void *in[] = {x};
    void *out[] = {y.bytes};
    const void *in2[] = {x2};
    void *out2[] = {y2};
    const void *none[] = {0};
    void *odd[] = {y.bytes + 1};
    while ((uintptr_t)arena % FIRST_ARENA_ALIGNMENT) arena++;
    printf("%d", first_run(in, out, arena, FIRST_ARENA_BYTES));
    printf(" %d", first_run(in, out, arena, FIRST_ARENA_BYTES + 64));
    printf(" %d", first_run(in, out, arena, FIRST_ARENA_BYTES - 1));
    printf(" %d", first_run(in, out, arena + 8, FIRST_ARENA_BYTES));
    printf(" %d", first_run(in, out, 0, FIRST_ARENA_BYTES));
    printf(" %d", first_run(0, out, arena, FIRST_ARENA_BYTES));
    printf(" %d", first_run(in, 0, arena, FIRST_ARENA_BYTES));
    printf(" %d", first_run(none, out, arena, FIRST_ARENA_BYTES));
    printf(" %d", first_run(in, odd, arena, FIRST_ARENA_BYTES));
    printf(" %d\\n", second_run(in2, out2, arena, SECOND_ARENA_BYTES));
    return 0;
}
"""


@pytest.mark.every(3)
@pytest.mark.parametrize("target", ["aarch64", "x86-64", "armv7-a"])
def test_wrong_memory_gives_an_error_code_and_two_models_link(tmp_path: Path, target: str) -> None:
    require_tools(target)
    g = IntegerGraph()
    first = g.module(g.dequantize(g.conv2d(g.conv2d(g.image(3, 8, 8), 8), 8)))
    for name, gm in (("first", first), ("second", linear())):
        qpc.export_library(gm, target, tmp_path / name, name=name)
    (tmp_path / "main.c").write_text(MISUSE)
    program = tmp_path / "main"
    folders = [f"-I{tmp_path / name}" for name in ("first", "second")]
    libraries = [tmp_path / name / f"lib{name}.a" for name in ("first", "second")]
    strict = ["-static", "-pedantic", "-Wconversion", "-Werror"]
    compiler = compiler_for(Target.parse(target))
    build([tmp_path / "main.c", *libraries], program, compiler, [*folders, *strict])
    done = _run(Target.parse(target), program)
    # Fine, fine, too small, misaligned, four times null, a misaligned output, and fine.
    assert done.split() == ["0", "0", "2", "3", "1", "1", "1", "1", "4", "0"]


def _run(target: Target, program: Path) -> str:
    from qpc.backends.deploy.toolchain import Program, emulator_for, is_native

    emulator = () if is_native(target) else emulator_for(target)
    return Program(program, emulator).run(seconds=60).stdout


@pytest.mark.every(4)
@pytest.mark.parametrize("target", ARCHITECTURES)
def test_threads_do_not_change_results(tmp_path: Path, target: str) -> None:
    g = IntegerGraph()
    x = g.image(32, 48, 48)
    gm = g.module(g.conv2d(x, 64, padding=(1, 1)))
    out = assert_exact(gm, target, tmp_path, threads=3, vectors=1)
    text = (out / "net.h").read_text()
    assert "void net_parallel(void (*task)(void *context, int number), void *context, int" in text


@pytest.mark.thorough
@pytest.mark.parametrize("sample", ["parallel_serial.c", "parallel_openmp.c"])
def test_other_samples_of_threads_give_the_same(tmp_path: Path, sample: str) -> None:
    require("gcc")
    g = IntegerGraph()
    gm = g.module(g.conv2d(g.image(32, 48, 48), 64, padding=(1, 1)))
    out = tmp_path / "net"
    qpc.export_library(gm, "x86-64", out, name="net", threads=3, vectors=1, cache=True)
    sources = [out / name for name in ("main.c", sample, "libnet.a")]
    build(sources, tmp_path / "main", ["gcc"], ["-fopenmp", "-lm"])
    done = subprocess.run(
        [tmp_path / "main", out / "vectors.bin"], capture_output=True, text=True, check=False
    )
    assert done.stdout == "1 cases, all equal\n"


@pytest.mark.thorough
def test_examples_become_test_vectors(tmp_path: Path) -> None:
    x = np.arange(8, dtype=np.uint8)[None]
    gm = linear()
    qpc.export_library(gm, "aarch64", tmp_path / "net", name="net", examples=[(x,)], vectors=3)
    vectors = (tmp_path / "net" / "vectors.bin").read_bytes()
    assert vectors[:12] == x.tobytes() + gm(torch.from_numpy(x)).numpy().tobytes()
    assert len(vectors) == 3 * 12


@pytest.mark.thorough
def test_outputs_that_float_operators_round_have_a_bound(tmp_path: Path) -> None:
    require_tools("aarch64")
    g = IntegerGraph()
    rounded = g.call(aten._softmax.default, g.dequantize(g.linear(g.image(8), 4)), 1, False)
    result = qpc.export_library(g.module(rounded), "aarch64", tmp_path / "net", name="net")
    (tolerance,) = run(tmp_path / "net").tolerances
    assert tolerance is not None
    assert 0 < tolerance <= 1e-3
    assert "NET_OUTPUT_0_IS_EXACT 0" in (tmp_path / "net" / "net.h").read_text()
    assert "within" in str(result)


@pytest.mark.thorough
def test_the_same_export_writes_the_same_files(tmp_path: Path) -> None:
    for name in ("one", "two"):
        qpc.export_library(linear(), "aarch64", tmp_path / name, name="net")
    first, second = (
        {file.name: file.read_bytes() for file in (tmp_path / name).iterdir()}
        for name in ("one", "two")
    )
    assert first == second


@pytest.mark.thorough
def test_a_library_replaces_one_of_its_name_and_nothing_else(tmp_path: Path) -> None:
    out = tmp_path / "net"
    for target in ("aarch64", "x86-64"):
        qpc.export_library(linear(), target, out, name="net")
    assert '"x86-64"' in (out / "library.json").read_text()
    with pytest.raises(ArtifactError, match=r"cannot be replaced: it holds '(lib)?net\.(a|h|so)'"):
        qpc.export_library(linear(), "x86-64", out, name="other")


@pytest.mark.parametrize("name", ["", "Net", "2net", "my-net", "int", "a" * 41, 3])
def test_what_no_c_name_begins_with_is_refused(tmp_path: Path, name: object) -> None:
    with pytest.raises(BackendError, match="a library cannot be called"):
        qpc.export_library(linear(), "x86-64", tmp_path / "net", name=name)  # type: ignore[arg-type]  # which is what is wrong


def test_a_model_that_is_not_traced_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="export_library needs a traced graph, got Linear"):
        qpc.export_library(nn.Linear(2, 2), "x86-64", tmp_path / "net")


def test_no_vectors_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="vectors must be a positive number, got 0"):
        qpc.export_library(linear(), "x86-64", tmp_path / "net", vectors=0)


def test_an_unknown_form_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="form must be one of 'objects', 'c', got 'rust'"):
        qpc.export_library(linear(), "cortex-m4", tmp_path / "net", form="rust")


def test_an_example_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    x = np.zeros((1, 8), np.uint8)
    with pytest.raises(BackendError, match="an example has 2 inputs, the model takes 1"):
        qpc.export_library(linear(), "x86-64", tmp_path / "net", examples=[(x, x)])
    with pytest.raises(BackendError, match=r"input 'x' has shape \(1, 7\)"):
        qpc.export_library(linear(), "x86-64", tmp_path / "net", examples=[(x[:, :7],)])


def test_code_that_must_ask_the_system_first_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedTargetError, match="must ask the operating system for amx-tile"):
        qpc.export_library(linear(), "x86-64-amx", tmp_path / "net")


@pytest.mark.thorough
def test_a_model_that_is_too_large_for_the_board_names_the_layer(tmp_path: Path) -> None:
    g = IntegerGraph()
    wide = g.module(g.conv2d(g.conv2d(g.image(16, 96, 96), 32), 4))
    text = "needs .* bytes of memory .*most at 'conv2d.*'.*'raspberry-pi-pico' has 270,336"
    with pytest.raises(BackendError, match=text):
        qpc.export_library(wide, "raspberry-pi-pico", tmp_path / "net")
    assert not (tmp_path / "net").exists()
    board = tmp_path / "board.yaml"
    board.write_text("name: tiny\nlike: cortex-m4\nflash: 2 KiB\n")
    g = IntegerGraph()
    heavy = g.module(g.linear(g.image(64), 64))
    with pytest.raises(
        BackendError, match=r"bytes of flash .* for the constants of '.*linear.*'tiny'"
    ):
        qpc.export_library(heavy, str(board), tmp_path / "net")


CORES = ("cortex-m4", "cortex-m0plus", "cortex-m3", "cortex-m7", "cortex-m33", "cortex-m55")


@pytest.mark.every(6)
@pytest.mark.parametrize("core", CORES)
def test_microcontrollers_without_a_system_give_every_byte(tmp_path: Path, core: str) -> None:
    g = IntegerGraph()
    q = g.quantize(g.input(3, 9, 8))
    a = g.add(g.conv2d(q, 8, padding=(1, 1)), g.conv2d(q, 8, padding=(1, 1)))
    gm = g.module(g.dequantize(g.linear(g.mean(g.lookup(a), (2, 3)), 5)))
    out = assert_exact(gm, core, tmp_path)
    with pytest.raises(BackendError, match="programs without an operating system have no clock"):
        time_library(out)


@functools.cache
def network(name: str) -> torch.fx.GraphModule:
    return NETWORKS[name]()


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_are_exact_in_every_form(tmp_path: Path, name: str, form: str) -> None:
    if form == "m55" and name in ("demo_resnet", "mobilenet_v2"):
        pytest.skip("its constants have no room on the board that QEMU has with that core")
    try:
        gm = network(name)
    except ImportError as e:
        pytest.skip(str(e))
    assert_all_exact({0: gm}, FORMS[form], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("core", CORES)
def test_the_keyword_network_is_exact_in_machine_code_of_microcontrollers(
    tmp_path: Path, core: str
) -> None:
    assert_exact(network("keywords"), core, tmp_path)

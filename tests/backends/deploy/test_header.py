from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest

from qpc.backends.deploy.deployable import Deployable, Port
from qpc.backends.deploy.header import c_float, header
from tests.backends.deploy.models import deployable

pytest.importorskip("tvm_ffi", reason="Apache TVM is not installed")


def test_it_says_what_callers_must_know() -> None:
    text = header(deployable())
    for line in (
        "#define NET_ARENA_BYTES 256",
        "#define NET_ARENA_ALIGNMENT 64",
        "typedef float net_input_0_t;",
        "#define NET_INPUT_0_DIMENSION_1 3",
        "#define NET_INPUT_0_SCALE 0.100000001f",
        "#define NET_INPUT_0_ZERO_POINT (7)",
        "#define NET_OUTPUT_0_IS_EXACT 1",
        "#define NET_ERROR_ARENA_SIZE 2 /* the arena is smaller than ARENA_BYTES */",
        "int net_run(const void *const *inputs, void *const *outputs, void *arena,",
    ):
        assert line in text
    assert "parallel" not in text


def test_a_model_with_threads_declares_what_the_program_brings() -> None:
    text = header(replace(deployable(), threads=4))
    assert "up to 4 tasks" in text
    assert "void net_parallel(void (*task)(void *context, int number), void *context, int" in text


@pytest.mark.parametrize(
    ("port", "text"),
    [
        (Port("y", "float16", (1,)), "C has no such type: these are the bits of float16."),
        (Port("y", "float32", (1,), tolerance=0.25), "within 0.25 of PyTorch's. */"),
        (Port("y", "uint8", (1,), 0.5, 3), "It stands for SCALE * (value - ZERO_POINT)."),
        (Port("*/ int x; /*", "int8", ()), "* / int x; / *"),
    ],
)
def test_outputs_are_described(port: Port, text: str) -> None:
    assert text in header(replace(deployable(), outputs=(port,)))


@pytest.mark.parametrize("value", [0.1, 1.0, 3e-38, 1 / 3, 255.0, 1e20])
def test_constants_are_read_back_to_the_last_bit(value: float) -> None:
    text = c_float(float(np.float32(value)))
    assert text.endswith("f")
    assert np.float32(text[:-1]) == np.float32(value)


@pytest.mark.parametrize("language", [["gcc", "-std=c99"], ["g++", "-std=c++11"]])
def test_c_and_cpp_take_it_without_a_warning(
    tmp_path_factory: pytest.TempPathFactory, language: list[str]
) -> None:
    if shutil.which(language[0]) is None:
        pytest.skip(f"{language[0]} is not installed")
    folder = tmp_path_factory.mktemp("header")
    (folder / "net.h").write_text(header(_with_everything()))
    source = folder / f"use.{'c' if language[0] == 'gcc' else 'cpp'}"
    source.write_text('#include "net.h"\n#include "net.h"\nint main(void) { return NET_OK; }\n')
    strict = ["-Wall", "-Wextra", "-pedantic", "-Wconversion", "-Werror"]
    done = subprocess.run(
        [*language, *strict, str(source), "-o", str(folder / "use")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def _with_everything() -> Deployable:
    types = ("float64", "float16", "bfloat16", "bool", "int64", "uint16")
    ports = tuple(Port(name, name, (2, 3), tolerance=0.1) for name in types)
    return replace(deployable(), outputs=ports, threads=2)

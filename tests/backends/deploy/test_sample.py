from __future__ import annotations

import struct
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from qpc.backends.deploy.deployable import Case, Deployable, Port
from qpc.backends.deploy.header import header
from qpc.backends.deploy.sample import cmake_file, main_program, vectors_file
from tests.backends.deploy.models import deployable
from tests.emulation import require

STRICT = ("-std=c99", "-Wall", "-Wextra", "-pedantic", "-Wconversion", "-Werror")
LIBRARY = """
#include "net.h"
int net_run(const void *const *inputs, void *const *outputs, void *arena, size_t arena_bytes)
{
    const unsigned char *in = inputs[0];
    unsigned char *out = outputs[0];
    size_t i;
    (void)arena, (void)arena_bytes;
    if (in[0] == 255) return NET_ERROR_KERNEL;
    for (i = 0; i < NET_OUTPUT_0_BYTES; i++) out[i] = in[i];
    return NET_OK;
}
"""


def program(model: Deployable, folder: Path) -> Path:
    """The sample, with a library that copies its input."""
    require("gcc")
    texts = {"net.h": header(model), "main.c": main_program(model), "net.c": LIBRARY}
    for name, text in texts.items():
        (folder / name).write_text(text)
    (folder / "vectors.bin").write_bytes(vectors_file(model))
    sources = [folder / "main.c", folder / "net.c"]
    subprocess.run(["gcc", *STRICT, *sources, "-o", folder / "main"], check=True)
    return folder / "main"


def copying(dtype: str, given: bytes, wanted: bytes, tolerance: float | None = None) -> Deployable:
    port = Port("x", dtype, (4,), tolerance=tolerance)
    case = Case((given,), (wanted,))
    return replace(deployable(), inputs=(port,), outputs=(port,), cases=(case,))


def said(path: Path, *arguments: str, given: bytes = b"") -> tuple[int, str]:
    done = subprocess.run(
        [path, *arguments], cwd=path.parent, input=given, capture_output=True, check=False
    )
    return done.returncode, done.stdout.decode()


def test_equal_bytes_are_all_equal(tmp_path: Path) -> None:
    main = program(copying("uint8", b"abcd", b"abcd"), tmp_path)
    assert said(main) == (0, "1 cases, all equal\n")
    assert said(main, "-", given=b"abcdabcdefghefgh") == (0, "2 cases, all equal\n")


def test_other_bytes_are_counted(tmp_path: Path) -> None:
    main = program(copying("uint8", b"abcd", b"aXcX"), tmp_path)
    code, text = said(main)
    assert code == 1
    assert text.startswith("case 0: output 0 differs in 2 of 4 elements, first in element 1\n")


def test_what_cannot_be_read_or_run_is_said(tmp_path: Path) -> None:
    main = program(copying("uint8", b"\xffbcd", b"abcd"), tmp_path)
    assert said(main) == (1, "case 0: net_run returned 5\n")
    assert said(main, "nothere") == (2, "cannot read nothere\n")
    assert said(main, "-") == (2, "there are no test vectors in the file\n")
    expected = "case 0: the expected output 0 cannot be read\n1 cases, not all equal\n"
    assert said(main, "-", given=b"abcdab") == (1, expected)


def test_calls_are_timed(tmp_path: Path) -> None:
    main = program(copying("uint8", b"abcd", b"abcd"), tmp_path)
    code, text = said(main, "--time", "3")
    assert (code, text.count(" ns\n")) == (0, 3)


def floats(dtype: str, values: list[float]) -> bytes:
    if dtype.startswith("float") and dtype != "float16":
        return np.array(values, dtype).tobytes()
    kind = getattr(torch, dtype)
    return torch.tensor(values, dtype=kind).view(torch.uint16).numpy().tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_outputs_that_are_rounded_may_differ_by_their_bound(tmp_path: Path, dtype: str) -> None:
    given = floats(dtype, [1.0, -2.0, 0.0, 0.125])
    near, far = floats(dtype, [1.25, -2.25, 0.25, 0.0]), floats(dtype, [1.0, -2.0, 0.5, 0.125])
    for number, (wanted, code) in enumerate(((near, 0), (far, 1))):
        folder = tmp_path / str(number)
        folder.mkdir()
        assert said(program(copying(dtype, given, wanted, 0.25), folder))[0] == code


def test_half_precision_is_read_right(tmp_path: Path) -> None:
    small = struct.pack("<4H", 1, 0x0400, 0x7BFF, 0xBC00)  # 2**-24, 2**-14, 65504, -1
    values = [2**-24, 2**-14, 65504.0, -1.0]
    assert floats("float16", values) == small
    moved = floats("float16", [2**-14, 2**-24, 65472.0, -1.5])
    assert said(program(copying("float16", small, moved, 40.0), tmp_path))[0] == 0


def test_cmake_knows_the_library_and_what_it_needs() -> None:
    text = cmake_file(deployable("cortex-m4"), "libnet.a")
    assert "target_compile_options(main PRIVATE -mcpu=cortex-m4" in text
    assert 'INTERFACE_LINK_LIBRARIES ""' in text
    assert "-O3" not in text
    assert "target_compile_options(net PRIVATE -O3)" in cmake_file(deployable("cortex-m4"), "net.c")
    assert "find_package(Threads" in cmake_file(replace(deployable(), threads=2), "libnet.a")

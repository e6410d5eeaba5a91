from __future__ import annotations

import re
import threading
import time
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.fx import GraphModule

pytest.importorskip("tvm")

from qpc.backends import tvm
from qpc.backends.tvm.codegen import objects
from tests.quantizing import Parts, fake_quantized, integer

pytestmark = pytest.mark.tvm


def graph(channels: int = 8) -> GraphModule:
    model = Parts(
        lambda m, x: torch.softmax(m.head(m.conv(x).relu().mean((2, 3))), 1),  # softmax is float
        conv=nn.Conv2d(3, channels, 3),
        head=nn.Linear(channels, 4),
    )
    return integer(fake_quantized(model, torch.randn(2, 3, 8, 8)))


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in (folder / "kernels").iterdir()}


@pytest.fixture
def compilations(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many functions each call of the compiler got."""
    seen: list[int] = []
    compile_ = objects._object_file

    def counted(functions: objects._Functions, target: object) -> bytes:
        seen.append(len(functions))
        return compile_(functions, target)

    monkeypatch.setattr(objects, "_object_file", counted)
    return seen


def test_the_second_compilation_finds_every_kernel(tmp_path: Path, compilations: list[int]) -> None:
    x, gm = torch.randn(1, 3, 8, 8), graph()
    first = tvm.compile_graph(gm, cache=tmp_path)
    assert len(compilations) == len(files(tmp_path)) > 4
    compilations.clear()
    second = tvm.compile_graph(gm, cache=tmp_path)
    assert compilations == []
    assert torch.equal(first(x), second(x))
    assert first._parts.code.library == second._parts.code.library


def test_models_share_kernels(tmp_path: Path, compilations: list[int]) -> None:
    tvm.compile_graph(graph(), cache=tmp_path)
    compilations.clear()
    tvm.compile_graph(graph(channels=16), cache=tmp_path)
    assert 0 < len(compilations) < len(files(tmp_path)) / 2 + 1


def test_targets_do_not_share_kernels(tmp_path: Path) -> None:
    tvm.compile_graph(graph(), "x86-64", cache=tmp_path)
    count = len(files(tmp_path))
    tvm.compile_graph(graph(), "x86-64-avx2", cache=tmp_path)
    assert len(files(tmp_path)) == 2 * count


@pytest.mark.parametrize("name", ["VERSION", "_LOWERING"])
def test_versions_do_not_share_kernels(
    name: str, tmp_path: Path, compilations: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    tvm.compile_graph(graph(), cache=tmp_path)
    compilations.clear()
    monkeypatch.setattr(objects, name, "0.0.0")
    tvm.compile_graph(graph(), cache=tmp_path)
    assert len(compilations) > 4


def test_a_damaged_entry_is_compiled_again(tmp_path: Path, compilations: list[int]) -> None:
    x, gm = torch.randn(1, 3, 8, 8), graph()
    expected = tvm.compile_graph(gm, cache=tmp_path)(x)
    before = files(tmp_path)
    damaged = tmp_path / "kernels" / next(iter(before))
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"?")
    compilations.clear()
    assert torch.equal(tvm.compile_graph(gm, cache=tmp_path)(x), expected)
    assert len(compilations) == 1
    assert files(tmp_path) == before


def test_the_cache_can_be_switched_off(
    tmp_path: Path, compilations: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QPC_CACHE_DIR", str(tmp_path))
    for _ in range(2):
        tvm.compile_graph(graph(), cache=False)
    assert len(compilations) > 8
    assert list(tmp_path.iterdir()) == []


def test_functions_that_call_each_other_stay_together(
    compilations: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objects, "_CALLS_ANOTHER", "T")  # what every function's text has
    x, gm = torch.randn(1, 3, 8, 8), graph()
    compiled = tvm.compile_graph(gm)
    assert len(compilations) == 2  # kernels, entry points
    with torch.no_grad():
        assert torch.equal(compiled(x), gm(x)) or torch.allclose(compiled(x), gm(x))


def test_a_kernel_that_takes_long_is_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    compile_ = objects._object_file

    def slow(functions: objects._Functions, target: object) -> bytes:
        time.sleep(0.1)
        return compile_(functions, target)

    monkeypatch.setattr(objects, "_object_file", slow)
    monkeypatch.setattr(objects, "_LONG_S", 0.01)
    tvm.compile_graph(graph(), "x86-64-avx2", cache=False)
    said = [r.getMessage() for r in caplog.records if r.name == "qpc.backends"]
    wanted = (
        r"LLVM has worked for 0 s on the kernel qpc_\w+; if it does not end, end the process,"
        r" compile for a simpler target, and report the model"
    )
    assert said
    assert all(re.fullmatch(wanted, text) for text in said)


def test_a_kernel_that_is_quick_is_not_spoken_of(caplog: pytest.LogCaptureFixture) -> None:
    before = threading.active_count()
    tvm.compile_graph(graph(), cache=False)
    assert not [record for record in caplog.records if "LLVM" in record.getMessage()]
    assert threading.active_count() == before

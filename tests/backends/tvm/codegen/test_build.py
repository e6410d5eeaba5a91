from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.fx import GraphModule

pytest.importorskip("tvm")

from qpc.backends.tvm import compile_graph
from qpc.backends.tvm.codegen import build
from qpc.backends.tvm.codegen import cache as cache_module
from qpc.backends.tvm.codegen.cache import KernelCache
from qpc.backends.tvm.codegen.objects import tvm_target
from qpc.errors import BackendError, UnsupportedTargetError
from qpc.targets import TARGETS, Target
from tests.quantizing import Parts, fake_quantized, integer

pytestmark = pytest.mark.tvm


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_llvm_knows_the_features_of_every_target(target: Target) -> None:
    assert list(tvm_target(target).attrs.get("mattr", [])) == list(target.mattr)


def test_a_feature_that_llvm_does_not_know_is_refused(capfd: pytest.CaptureFixture[str]) -> None:
    target = Target("mine", "x86_64-unknown-linux-gnu", ("sse4.1", "magic"), 4, "generic")
    with pytest.raises(UnsupportedTargetError, match="LLVM knows no features magic of target"):
        tvm_target(target)
    capfd.readouterr()  # LLVM says so, too


@pytest.fixture(scope="module")
def graph() -> GraphModule:
    model = Parts(lambda m, x: m.linear(x), linear=nn.Linear(8, 16))
    return integer(fake_quantized(model, torch.randn(4, 8)))


def entries(folder: Path) -> list[Path]:
    return sorted((folder / "kernels").iterdir())


def replace_entries(folder: Path, data: bytes) -> None:
    """Give every entry this content, under a right hash: whole, but wrong."""
    cache = KernelCache(folder / "kernels")
    for entry in entries(folder):
        cache.put(entry.stem, data)


@pytest.mark.parametrize(
    "data",
    [b"", b"1234", bytes(500), b"\xff" * 500],
    ids=["empty", "short", "no object", "much memory"],
)
def test_kept_kernels_that_are_whole_but_wrong_are_made_again(
    graph: GraphModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    monkeypatch.setattr(cache_module, "_told", set())
    expected = compile_graph(graph, cache=tmp_path)._parts.code.library
    before = {entry: entry.read_bytes() for entry in entries(tmp_path)}
    replace_entries(tmp_path, data)
    with pytest.warns(UserWarning, match="kept do not fit together, and were made again"):
        assert compile_graph(graph, cache=tmp_path)._parts.code.library == expected
    after = {entry: entry.read_bytes() for entry in entries(tmp_path)}
    assert {entry: after[entry] for entry in before} == before


def test_an_error_in_linking_what_was_just_made_is_an_error(
    graph: GraphModule, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> bytes:
        raise BackendError("cannot link")

    monkeypatch.setattr(build, "link_shared", fail)
    with pytest.raises(BackendError, match="cannot link"):
        compile_graph(graph, cache=tmp_path)


def test_cpu_and_abi_are_those_of_the_target() -> None:
    assert tvm_target(Target.parse("x86-64-avx2")).attrs["mcpu"] == "x86-64"
    assert "mfloat-abi" not in tvm_target(Target.parse("x86-64-avx2")).attrs
    mine = replace(Target.parse("x86-64"), name="mine", cpu="haswell", abi="hard")
    assert tvm_target(mine).attrs["mcpu"] == "haswell"
    assert tvm_target(mine).attrs["mfloat-abi"] == "hard"


def test_a_target_without_a_counter_has_no_timed_entry_points(graph: GraphModule) -> None:
    target = replace(Target.parse("x86-64"), name="mine", counter=None)
    compiled = compile_graph(graph, target)
    assert b"run_1_timed" not in compiled._parts.code.library
    assert compiled(torch.randn(1, 8)).shape == (1, 16)
    with pytest.raises(BackendError, match="target 'mine' has no counter of time") as caught:
        compiled.profile()
    assert caught.value.fix == "compiled.benchmark() measures whole calls"

"""Broken folders are one clear error, or what they were. `artifacts.py` tries many more."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.robustness.artifact_bases import write_bases
from tests.robustness.artifacts import Try, tries


def _check(kind: str, seeds: range, folder: Path) -> None:
    write_bases(kind, folder)
    found = list(tries(kind, seeds, folder))
    assert [str(one) for one in found if one.fault] == []
    assert len(found) == len(seeds)
    assert {one.outcome for one in found} == {"error", "loaded"}


@pytest.mark.thorough
def test_broken_graphs(tmp_path: Path) -> None:
    _check("graph", range(40), tmp_path)


@pytest.mark.thorough
@pytest.mark.tvm
def test_broken_models(tmp_path: Path) -> None:
    pytest.importorskip("tvm_ffi", reason="Apache TVM is not installed")
    _check("model", range(40), tmp_path)


@pytest.mark.slow
@pytest.mark.tvm
@pytest.mark.timeout(3600)
def test_many_broken_models_for_the_runtime(tmp_path: Path) -> None:
    pytest.importorskip("tvm_ffi", reason="Apache TVM is not installed")
    _check("runtime", range(200_000, 203_000), tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_many_broken_graphs(tmp_path: Path) -> None:
    _check("graph", range(100_000, 103_000), tmp_path)


@pytest.mark.slow
@pytest.mark.tvm
@pytest.mark.timeout(3600)
def test_many_broken_models(tmp_path: Path) -> None:
    pytest.importorskip("tvm_ffi", reason="Apache TVM is not installed")
    _check("model", range(100_000, 103_000), tmp_path)


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["onnx", "encodings"])
def test_broken_files_of_others(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    _check(kind, range(40), tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("kind", ["onnx", "encodings"])
def test_many_broken_files_of_others(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    _check(kind, range(100_000, 102_500), tmp_path)


@pytest.mark.parametrize("seed", range(24))
def test_a_forged_model_is_one_clear_error_or_a_module(seed: int, tmp_path: Path) -> None:
    """What is read of a file before anything of it is traced, which takes longer."""
    pytest.importorskip("onnx")
    from qpc.errors import QPCError
    from qpc.importers.onnx.model import read_model
    from tests.importers.models import node, saved
    from tests.robustness.forged_onnx import forge_model

    one = np.ones((4, 4), np.float32)
    nodes = node("MatMul", "x", "w", to="a"), node("Add", "a", "b", to="c"), node("Relu", "c")
    saved(tmp_path, *nodes, w=one, b=one[0])
    forge_model(random.Random(seed), tmp_path)
    error = ""
    try:
        read_model(tmp_path / "net.onnx")
    except QPCError as e:
        error = str(e)
    assert len(error) < 1000


def test_a_fault_says_how_to_repeat_it() -> None:
    fault = Try("graph", 7, "hangs", "the process that loaded it")
    assert fault.fault
    assert str(fault).endswith(
        "repeat with: python -m tests.robustness.artifacts --kind graph --tries 1 --seed 7"
    )
    assert not Try("graph", 7, "error", "").fault


# A loader that does everything that must not be, one after the other.
_BAD_LOADER = """
import os, sys
from pathlib import Path
import qpc
from tests.robustness import break_one
from tests.robustness.forgery import MARK
load = qpc.load_graph
count = 0
def bad(path):
    global count
    count += 1
    if count <= 5:
        return load(path)  # those that are whole
    kind = count - 6
    if kind == 0: exec(f"x = '{MARK}'")
    if kind == 1: os.system("true")
    if kind == 2: open(MARK, "w").close()
    if kind == 3: raise KeyError("raw")
    if kind == 4: raise qpc.errors.ArtifactError("no way out")
    if kind == 5: os.abort()
qpc.load_graph = bad
break_one.main("graph", 0, 6, Path(sys.argv[1]))
"""


@pytest.mark.thorough
def test_the_fuzzer_notices_what_must_not_be(tmp_path: Path) -> None:
    bases, empty = tmp_path / "bases", tmp_path / "empty"
    empty.mkdir()
    write_bases("graph", bases)
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(map(os.path.abspath, sys.path)))
    done = subprocess.run(
        [sys.executable, "-c", _BAD_LOADER, str(bases)],
        capture_output=True,
        text=True,
        cwd=empty,
        env=environment,
        check=False,
    )
    outcomes = [line.partition("\t")[0] for line in done.stdout.splitlines()[1:]]
    for outcome, seen in zip(outcomes, ("compiles", "os.system", "writes to"), strict=False):
        assert outcome.startswith("runs code: ")
        assert seen in outcome
    assert outcomes[3].startswith("raw error: ")
    assert outcomes[4].startswith("no fix: ")
    assert (len(outcomes), done.returncode) == (5, -6)
    assert os.listdir(empty) == ["OWNED"]

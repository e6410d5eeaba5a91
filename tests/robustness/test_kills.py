"""A process that is killed while it saves leaves the old version or the new one, nothing else."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import qpc
from qpc import documents
from qpc.documents import COMPILED_MODEL, SAVED_GRAPH, Kind
from tests.dying import deaths
from tests.robustness.artifact_bases import write_bases

_SAVES = """
import sys
from pathlib import Path
from qpc import documents
goal, kind, *versions = sys.argv[1:]
kind = getattr(documents, kind)
contents = [{p.name: p.read_bytes() for p in Path(v).iterdir()} for v in versions]
print("ready", flush=True)
while True:
    for content in contents:
        documents.write(goal, content, kind)
"""


def _contents(bases: Path) -> list[dict[str, bytes]]:
    return [
        {p.name: p.read_bytes() for p in folder.iterdir()} for folder in sorted(bases.iterdir())
    ]


@pytest.mark.thorough
@pytest.mark.tvm
def test_wherever_saving_a_compiled_model_dies_a_whole_one_is_found(tmp_path: Path) -> None:
    pytest.importorskip("tvm_ffi", reason="Apache TVM is not installed")
    write_bases("model", tmp_path / "bases")
    old, new = _contents(tmp_path / "bases")
    goal = tmp_path / "here" / "model"
    documents.write(goal, old, COMPILED_MODEL)
    for step in deaths(lambda: documents.write(goal, new, COMPILED_MODEL)):
        assert {p.name: p.read_bytes() for p in goal.iterdir()} in (old, new), step
        qpc.load(goal)
        documents.write(goal, old, COMPILED_MODEL)
        assert os.listdir(goal.parent) == ["model"], step


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", [SAVED_GRAPH, COMPILED_MODEL], ids=lambda kind: kind.load)
def test_a_process_that_is_killed_leaves_a_whole_version(kind: Kind, tmp_path: Path) -> None:
    if kind is COMPILED_MODEL:
        pytest.importorskip("tvm_ffi", reason="Apache TVM is not installed")
    bases, goal = tmp_path / "bases", tmp_path / "here" / "it"
    write_bases("graph" if kind is SAVED_GRAPH else "model", bases)
    contents = _contents(bases)
    documents.write(goal, contents[0], kind)
    name = "SAVED_GRAPH" if kind is SAVED_GRAPH else "COMPILED_MODEL"
    command = [sys.executable, "-c", _SAVES, str(goal), name, *map(str, sorted(bases.iterdir()))]
    rng = random.Random(0)
    for _ in range(60):
        with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
            assert child.stdout is not None
            child.stdout.readline()
            time.sleep(rng.random() * 0.05)  # any moment will do
            child.send_signal(signal.SIGKILL)
        assert {p.name: p.read_bytes() for p in goal.iterdir()} in contents
    documents.write(goal, contents[0], kind)
    assert os.listdir(goal.parent) == ["it"]

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

import qpc
from qpc.cli import app
from tests.exporting.nets import integer_residual
from tests.quantizing import min_max

pytest.importorskip("onnx")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("graph") / "saved"
    qpc.save_graph(integer_residual(min_max(symmetric=True)), made)
    return made


def test_a_saved_graph_becomes_files_of_a_form(folder: Path, tmp_path: Path) -> None:
    goal = tmp_path / "net.onnx"
    words = ["export", str(folder), str(goal), "--form", "onnx-float", "--encodings", "2.0.0"]
    done = CliRunner().invoke(app, [*words, "--batch", "1"])
    assert done.exit_code == 0, done.output
    assert [line.partition(": ")[0] for line in done.stdout.splitlines()] == [
        str(goal),
        str(tmp_path / "net.encodings"),
    ]
    found = json.loads(CliRunner().invoke(app, [*words, "--batch", "1", "--json"]).stdout)
    assert (found["form"], found["notes"]) == ("onnx-float", [])
    assert found["files"][str(goal)] == goal.stat().st_size
    assert json.loads((tmp_path / "net.encodings").read_text())["version"] == "2.0.0"


def test_what_a_form_does_not_take_is_an_error(folder: Path, tmp_path: Path) -> None:
    words = ["export", str(folder), str(tmp_path / "net.onnx"), "--fuse-residual-adds"]
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 1
    assert "has no option 'fuse_residual_adds'" in done.stderr
    assert CliRunner().invoke(app, [*words, "--form", "onnx-tensorrt"]).exit_code == 0

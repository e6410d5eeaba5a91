from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

import qpc
from qpc.cli import app
from tests.exporting.nets import Residual, images, integer_residual
from tests.quantizing import min_max

onnx = pytest.importorskip("onnx")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("graph") / "saved"
    qpc.save_graph(integer_residual(min_max(symmetric=True)), made)
    return made


@pytest.fixture(scope="module")
def joined(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A graph with a layer that joins an addition, and data in a file."""
    made = tmp_path_factory.mktemp("joined")
    qpc.save_graph(qpc.quantize(qpc.trace(Residual(), images()), [images()]), made / "saved")
    np.save(made / "data.npy", images().numpy())
    return made


def invoke(*words: object) -> Result:
    return CliRunner().invoke(app, ["export", *map(str, words)])


def test_a_saved_graph_becomes_files_of_a_form(folder: Path, tmp_path: Path) -> None:
    goal = tmp_path / "net.onnx"
    words = [folder, goal, "--form", "onnx-float", "--encodings", "2.0.0", "--batch", 1]
    done = invoke(*words)
    assert done.exit_code == 0, done.output
    assert [line.partition(": ")[0] for line in done.stdout.splitlines()] == [
        str(goal),
        str(tmp_path / "net.encodings"),
    ]
    found = json.loads(invoke(*words, "--json").stdout)
    assert (found["form"], found["notes"]) == ("onnx-float", [])
    assert found["files"][str(goal)] == goal.stat().st_size
    assert json.loads((tmp_path / "net.encodings").read_text())["version"] == "2.0.0"


def test_data_gives_layers_that_join_additions_their_grids(joined: Path, tmp_path: Path) -> None:
    gm = qpc.load_graph(joined / "saved")
    made = qpc.export(gm, tmp_path / "api.onnx", batches=[images()])
    words = [joined / "saved", tmp_path / "cli.onnx", "--json"]
    without = json.loads(invoke(*words).stdout)
    assert "with data (batches=..., or --data)" in without["notes"][0]
    assert (tmp_path / "cli.onnx").read_bytes() != made.files[0].read_bytes()
    done = invoke(*words, "--data", joined / "data.npy")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["notes"] == []
    assert (tmp_path / "cli.onnx").read_bytes() == made.files[0].read_bytes()


def test_a_batch_size_is_that_of_the_file_and_of_the_data(joined: Path, tmp_path: Path) -> None:
    goal = tmp_path / "net.onnx"
    done = invoke(joined / "saved", goal, "--data", joined / "data.npy", "--batch", 2)
    assert done.exit_code == 0, done.output
    (given,) = onnx.load(goal).graph.input
    assert given.type.tensor_type.shape.dim[0].dim_value == 2


def test_data_that_makes_no_difference_is_told_of(
    folder: Path, joined: Path, tmp_path: Path
) -> None:
    done = invoke(folder, tmp_path / "net.onnx", "--data", joined / "data.npy")
    assert done.exit_code == 0, done.output
    assert "none of its layers joins an addition" in done.stderr


def test_a_model_of_a_function_is_exported_in_float(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "net.py").write_text("from torch import nn\nmodel = nn.Linear(3, 2).eval()\n")
    monkeypatch.chdir(tmp_path)
    words = ["net.py:model", "net.onnx", "--input", "1x3", "--form", "onnx-float"]
    done = invoke(*words)
    assert done.exit_code == 0, done.output
    assert onnx.load("net.onnx").graph.node[0].op_type == "Gemm"


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--fuse-residual-adds"], "has no option 'fuse_residual_adds'"),
        (["--form", "onnx-integer", "--data", "{data}"], "makes no use of data"),
        (["--samples", "2"], "--samples is about data, and there is none"),
        (["--data", "{wrong}"], "the graph takes"),
    ],
)
def test_what_does_not_go_together_is_an_error(
    words: list[str], text: str, joined: Path, tmp_path: Path
) -> None:
    np.save(tmp_path / "wrong.npy", np.zeros((2, 3, 5), np.float32))
    places = {"data": joined / "data.npy", "wrong": tmp_path / "wrong.npy"}
    goal = tmp_path / "net.onnx"
    done = invoke(joined / "saved", goal, *[word.format(**places) for word in words])
    assert done.exit_code == 1
    assert text in done.stderr
    assert not goal.exists()


def test_sums_may_be_fused_for_tensorrt(folder: Path, tmp_path: Path) -> None:
    goal = tmp_path / "net.onnx"
    assert invoke(folder, goal, "--form", "onnx-tensorrt", "--fuse-residual-adds").exit_code == 0

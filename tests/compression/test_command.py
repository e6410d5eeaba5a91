from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file
from typer.testing import CliRunner

import qpc
from qpc import cli
from qpc.compression.command import Answer, compress_file
from qpc.compression.tasks import model_of, task_of
from qpc.errors import ConfigError
from tests.compression.running import PRUNE, inputs, labels

MODEL = """
import torch
from torch import nn

def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 4))

def evaluate(gm):
    return 0.5

def batches():
    return [torch.zeros(2, 6)]

def number():
    return 3
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "small_network.py").write_text(MODEL)
    names = {"train.inputs": inputs(), "train.labels": labels(inputs())}
    tests = {"test.inputs": inputs(), "test.labels": labels(inputs())}
    save_file({**names, **tests}, tmp_path / "data.safetensors")
    return tmp_path


def write(folder: Path, **settings: object) -> Path:
    recipe = {
        "model": "small_network.py:model",
        "data": {"kind": "tensors", "file": "data.safetensors", "batch_size": 24},
        "start": [PRUNE, {"kind": "fine-tune", "epochs": 1}],
        **settings,
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder / "recipe.yaml"


def test_a_recipe_runs_from_the_command_line_and_again_from_what_it_kept(folder: Path) -> None:
    path, out = write(folder), folder / "recipe-compressed"
    result = CliRunner().invoke(cli.app, ["compress", str(path), "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["best"] == "result"
    again = compress_file(out / "recipe.yaml", folder / "again")
    assert qpc.fingerprint(again.model) == qpc.fingerprint(qpc.load_graph(out / "best"))


def test_a_target_that_is_missed_ends_with_status_1(folder: Path) -> None:
    path = write(folder, target={"macs": 1}, start=[PRUNE])
    result = CliRunner().invoke(cli.app, ["compress", str(path), "--out", str(folder / "out")])
    assert result.exit_code == 1
    assert "error: the target was not reached" in result.output


def test_of_several_processes_one_speaks(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = Answer("a table", {}, False, first=False)
    monkeypatch.setattr("qpc.compression.command.run", lambda *args: answer)
    result = CliRunner().invoke(cli.app, ["compress", str(write(folder))])
    assert (result.exit_code, result.stdout) == (0, "")


def test_a_mistake_is_told_without_a_traceback(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(folder, sed=3)
    monkeypatch.setattr(sys, "argv", ["qpc", "compress", str(path)])
    with pytest.raises(SystemExit, match="1"):
        cli.main()
    assert "recipe.yaml, line 6: sed: there is no such setting" in capsys.readouterr().err


def test_ctrl_c_says_that_nothing_is_lost(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("qpc.compression.command.run", interrupted)
    result = CliRunner().invoke(cli.app, ["compress", str(write(folder))])
    assert result.exit_code == 130
    assert "what is done is kept in" in result.output


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"model": None}, "the recipe names no model"),
        ({"model": "small_network.py:number"}, "returned int, not a torch.nn.Module"),
        ({"data": None}, "the recipe names no data"),
        ({"data": {"kind": "tensors", "file": "none"}}, r"data\.file: cannot read"),
        (
            {"data": {"kind": "tensors", "source": "small_network.py:number"}},
            r"there must be the tensors train\.inputs, .*, got int",
        ),
        ({"data": {"kind": "tensors"}}, "tensors need one of file and source"),
        ({"data": {"kind": "image-folder", "train": "a", "test": "b"}}, "size: Field required"),
        ({"data": {"kind": "images"}}, "data: Input tag 'images' found using 'kind'"),
    ],
)
def test_what_a_recipe_must_name_is_told(
    folder: Path, settings: dict[str, object], problem: str
) -> None:
    with pytest.raises(ConfigError, match=problem):
        compress_file(write(folder, **settings), folder / "out")


def test_functions_of_one_s_own_are_named(folder: Path) -> None:
    functions = {
        "kind": "functions",
        "evaluate": "small_network.py:evaluate",
        "batches": "small_network.py:batches",
    }
    path = write(folder, data=functions, start=[PRUNE])
    result = compress_file(path, folder / "out")
    assert result.best.metric == 0.5
    kept = yaml.safe_load((folder / "out" / "recipe.yaml").read_text())
    assert kept["data"]["evaluate"] == "../small_network.py:evaluate"


def test_folders_of_images_are_classified(folder: Path) -> None:
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    for part in ("train", "test"):
        for name in ("a", "b"):
            (folder / part / name).mkdir(parents=True)
            image.new("L", (2, 3), 200).save(folder / part / name / "0.png")
    data = {
        "kind": "image-folder",
        "train": "train",
        "test": "test",
        "size": [3, 2],
        "mean": [0.5],
        "std": [0.5],
    }
    recipe = qpc.Recipe.model_validate(yaml.safe_load(write(folder, data=data).read_text()))
    task = task_of(recipe, folder)
    assert callable(task.batches)
    (batch,) = task.batches()
    assert isinstance(batch, tuple)
    assert batch[0].shape == (2, 1, 3, 2)
    assert isinstance(model_of(recipe, folder), torch.nn.Module)
    (folder / "test" / "c").mkdir()
    with pytest.raises(ConfigError, match="'train' has the classes a, b, 'test' a, b, c"):
        task_of(recipe, folder)

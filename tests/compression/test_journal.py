from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import nn

import qpc
from qpc.compression.journal import GRAPHS, JOURNAL, Entry, Journal, held
from qpc.compression.result import Row
from qpc.errors import ArtifactError, CompressionError, ConfigError
from qpc.testing import traced

RECIPE = {"seed": 0, "start": [{"kind": "qat", "epochs": 1}]}
ROW = Row("baseline", False, 0.5, 1, 2, 3, None, "abc")


@pytest.fixture(scope="module")
def gm() -> torch.fx.GraphModule:
    return traced(nn.Linear(2, 2), torch.ones(1, 2))


def test_what_was_recorded_is_found_again(tmp_path: Path, gm: torch.fx.GraphModule) -> None:
    journal = Journal.begin(tmp_path, RECIPE)
    entry = Entry("start.1-qat", "start.1-qat", qpc.fingerprint(gm), 1.5, ROW, ("did it",))
    journal.record(entry, gm, {"start.1-qat"})
    again = Journal.begin(tmp_path, RECIPE)
    assert again.entries == [entry]
    assert again.find("start.1-qat") == entry
    assert again.find("start.2-qat") is None
    assert qpc.fingerprint(again.load("start.1-qat")) == entry.fingerprint


def test_graphs_that_nothing_needs_are_removed(tmp_path: Path, gm: torch.fx.GraphModule) -> None:
    journal = Journal.begin(tmp_path, RECIPE)
    for name in ("a", "b", "c"):
        journal.record(Entry(name, name, "", 0.0), gm, {"a"})
    assert sorted(os.listdir(tmp_path / GRAPHS)) == ["a", "c"]


def test_a_step_without_a_graph_keeps_that_of_the_one_before(
    tmp_path: Path, gm: torch.fx.GraphModule
) -> None:
    journal = Journal.begin(tmp_path, RECIPE)
    journal.record(Entry("a", "a", "", 0.0), gm, ())
    journal.record(Entry("b", "a", "", 0.0, ROW), None, ())
    assert os.listdir(tmp_path / GRAPHS) == ["a"]


def test_another_recipe_is_refused_with_what_differs(tmp_path: Path) -> None:
    Journal.begin(tmp_path, RECIPE)
    with pytest.raises(ConfigError, match=r"has another recipe: seed was 0, is 1") as error:
        Journal.begin(tmp_path, {**RECIPE, "seed": 1})
    assert error.value.fix == "choose another folder for the new recipe, or remove this one"


def test_folders_of_something_else_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("all of it")
    with pytest.raises(CompressionError, match=r"holds something else than a run: 'thesis\.txt'"):
        Journal.begin(tmp_path, RECIPE)
    assert os.listdir(tmp_path) == ["thesis.txt"]


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda text: text[:-20], "is damaged: it is not JSON"),
        (lambda text: text.replace('"seed": 0', '"seed": 7'), "does not match its own hash"),
        (lambda text: '{"format": "x"}', "is of another version of QPC"),
    ],
)
def test_a_damaged_journal_is_told(tmp_path: Path, damage: object, problem: str) -> None:
    Journal.begin(tmp_path, RECIPE)
    path = tmp_path / JOURNAL
    path.write_text(damage(path.read_text()))  # type: ignore[operator]  # it is one of the above
    with pytest.raises((ArtifactError, CompressionError), match=problem):
        Journal.begin(tmp_path, RECIPE)


def test_a_folder_is_held_by_one_process(tmp_path: Path) -> None:
    with (
        held(tmp_path / "run"),
        pytest.raises(CompressionError, match="another process works in"),
        held(tmp_path / "run"),
    ):
        pass
    with held(tmp_path / "run"):
        pass  # it is free again


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CompressionError, match="cannot use"), held(tmp_path / "file" / "run"):
        pass


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal.begin(tmp_path, RECIPE)

    def full(*args: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("qpc.compression.journal.replace_file", full)
    with pytest.raises(ArtifactError, match=r"cannot write 'journal\.json' in .*: No space") as e:
        journal.record(Entry("a", "", "", 0.0), None, ())
    assert "run the same again: it goes on from the last step" in str(e.value.fix)

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import qpc
from qpc.errors import ArtifactError
from qpc.reporting.data import read_report
from qpc.reporting.page import page_of
from qpc.reporting.write import checked_goal, save_report


def test_page_and_data_stand_side_by_side(made: Any, tmp_path: Path) -> None:
    goal = tmp_path / "net.html"
    report = qpc.write_report(goal, made.reference, made.integer, [made.batch], title="net")
    assert {file.name for file in tmp_path.iterdir()} == {"net.html", "net.json"}
    again = read_report(tmp_path / "net.json")
    assert again == report
    assert page_of(again) == goal.read_text("utf-8")


def test_where_it_cannot_be_written_is_told_before_anything_is_computed(tmp_path: Path) -> None:
    nothing: Any = None
    with pytest.raises(ArtifactError, match=r"a report is a file \.html, got 'net\.pdf'"):
        qpc.write_report("net.pdf", nothing, nothing, [])
    with pytest.raises(ArtifactError, match="there is no folder"):
        qpc.write_report(tmp_path / "nowhere" / "net.html", nothing, nothing, [])
    (tmp_path / "net.html").mkdir()
    with pytest.raises(ArtifactError, match=r"cannot write '.*net\.html': Is a directory"):
        qpc.write_report(tmp_path / "net.html", nothing, nothing, [])


def test_a_folder_that_may_not_be_written_to_is_told_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # tests may run as root
    with pytest.raises(ArtifactError, match=r"cannot write '.*net\.html': Permission denied"):
        checked_goal(tmp_path / "net.html")


def test_a_folder_in_its_place_is_told(made: Any, tmp_path: Path) -> None:
    (tmp_path / "net.json").mkdir()
    with pytest.raises(ArtifactError, match=r"cannot write .*net\.json"):
        save_report(made.report, tmp_path / "net.html")

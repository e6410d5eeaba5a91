from __future__ import annotations

import re
from pathlib import Path

import pytest

from qpc.assets import load_demo_images
from tests.code_blocks import run_page

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"


@pytest.mark.tvm
def test_the_code_of_the_readme_runs_and_prints_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tvm_ffi", reason="Apache TVM is not installed")
    monkeypatch.chdir(tmp_path)
    assert run_page(README) == 5
    assert [path.name for path in tmp_path.iterdir()] == ["fashion-int8"]


def test_the_commands_of_the_readme_are_in_the_makefile() -> None:
    commands = re.findall(r"\bmake ([a-z-]+)", README.read_text(encoding="utf-8"))
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M)
    assert {"demo", "test"} <= set(commands) <= set(targets)


def test_the_demo_s_table_in_the_readme_is_about_all_images_and_no_difference() -> None:
    table = README.read_text(encoding="utf-8").partition("```console")[2]
    values = 10 * len(load_demo_images().test)
    found = re.findall(r"compiled int8 .* ([\d,]+) of ([\d,]+) ", table)
    assert found == [("0", f"{values:,}"), ("0", "4,000")]

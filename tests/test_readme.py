from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
from torch import nn

from qpc.assets import load_demo_images, load_demo_model
from tests.code_blocks import run_page

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"


def small_model() -> tuple[nn.Module, None]:
    """In place of the package's network, as the page itself says; the examples run that one."""
    layers = {
        "conv1": nn.Conv2d(1, 8, 3, stride=2),
        "bn1": nn.BatchNorm2d(8),
        "relu": nn.ReLU(),
        "conv2": nn.Conv2d(8, 16, 3, stride=2),
        "bn2": nn.BatchNorm2d(16),
        "flatten": nn.Flatten(),
        "fc": nn.Linear(16 * 6 * 6, 10),
    }
    return nn.Sequential(OrderedDict(layers)).eval(), None


@pytest.mark.tvm
@pytest.mark.parametrize(
    "load", [small_model, pytest.param(load_demo_model, marks=pytest.mark.slow)]
)
def test_the_code_of_the_readme_runs_and_prints_what_it_says(
    load: Callable[[], tuple[nn.Module, object]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tvm_ffi", reason="Apache TVM is not installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("qpc.assets.load_demo_model", load)
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

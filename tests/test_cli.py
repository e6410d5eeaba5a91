from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from typer.testing import CliRunner

from qpc import cli
from qpc.doctor import Check
from qpc.errors import QPCError

ROOT = Path(__file__).parents[1]


def test_help_lists_the_commands() -> None:
    result = CliRunner().invoke(cli.app, ["--help"])
    assert result.exit_code == 0
    for name in ("demo", "doctor", "version"):
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

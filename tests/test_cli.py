from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from typer.testing import CliRunner, Result

from qpc import cli
from qpc.bench.request import Request
from qpc.commands import COMMANDS
from qpc.doctor import Check
from qpc.errors import QPCError
from qpc.version import VERSION

ROOT = Path(__file__).parents[1]


def test_help_lists_the_commands() -> None:
    result = CliRunner().invoke(cli.app, ["--help"])
    assert result.exit_code == 0
    lines = result.output.splitlines()
    for name, about in COMMANDS.items():
        assert any(line.split()[:2] == [name, about.line.split()[0]] for line in lines)
        assert f"{about.panel}:" in lines
    assert any(line.startswith("  --version") for line in lines)


def test_help_is_written_without_what_takes_long_to_import() -> None:
    code = """
import sys
import qpc.cli
sys.argv = ["qpc", "--help"]
try:
    qpc.cli.main()
finally:
    sys.stderr.write(" ".join({"rich", "torch", "numpy"} & set(sys.modules)))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("Usage: qpc ")
    assert done.stderr == ""


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


def test_an_option_before_the_command_is_told_where_it_belongs() -> None:
    result = CliRunner().invoke(cli.app, ["--quiet", "version"])
    assert result.exit_code == 2
    assert "--quiet is no option of qpc itself" in result.output


@pytest.mark.parametrize("argument", ["version", "--version"])
def test_version_prints_the_version(argument: str) -> None:
    result = CliRunner().invoke(cli.app, [argument])
    assert (result.exit_code, result.output) == (0, "qpc 0.1.0\n")


def test_demo_runs_the_demonstration(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[bool] = []

    def run_demo(*, quick: bool, say: object) -> dict[str, int]:
        calls.append(quick)
        return {"seconds": 3}

    monkeypatch.setattr("qpc.demo.run_demo", run_demo)
    monkeypatch.setattr("qpc.demo.render", lambda result, console: console.print("a table"))
    assert CliRunner().invoke(cli.app, ["demo"]).stdout == "a table\n"
    answer = CliRunner().invoke(cli.app, ["demo", "--quick", "--json"]).stdout
    assert json.loads(answer) == {"qpc": VERSION, "seconds": 3}
    assert calls == [False, True]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Result]:
    """Run `qpc bench` on a folder, with `answer` in place of a measurement."""

    def invoke(answer: Callable[[Request], object], *options: str) -> Result:
        module = ModuleType("qpc.bench.command")
        monkeypatch.setattr(module, "run", lambda request, *_: answer(request), raising=False)
        monkeypatch.setitem(sys.modules, "qpc.bench.command", module)
        monkeypatch.setattr(Request, "check", lambda request: None)
        return CliRunner().invoke(cli.app, ["bench", str(tmp_path), *options])

    return invoke


def answer(request: Request) -> object:
    return SimpleNamespace(text="a table", data={"rounds": request.rounds}, notes=("a note",))


def test_bench_hands_on_what_is_asked_and_prints_the_answer(
    bench: Callable[..., Result], tmp_path: Path
) -> None:
    asked: list[Request] = []

    def run(request: Request) -> object:
        asked.append(request)
        return answer(request)

    peers = ["--peer", "torch", "--peer", "openvino", "--peer", "torch"]
    result = bench(run, *peers, "--threads", "2", "--rounds", "3")
    assert result.exit_code == 0
    assert asked == [Request(tmp_path, None, 2, 1, 3, ["torch", "openvino"], name=tmp_path.name)]
    assert result.stdout == "a table\n"
    assert "a note" in result.stderr
    assert json.loads(bench(run, "--json").stdout) == {"qpc": VERSION, "rounds": 50}


def test_bench_says_at_once_what_cannot_be_done(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["qpc", "bench", "nowhere", "--peer", "tensorrt"])
    with pytest.raises(SystemExit, match="1"):
        cli.main()
    told = capsys.readouterr().err
    assert told.startswith("error: unknown runtime 'tensorrt'\n")
    assert "use one of: onnxruntime, openvino" in told


def interrupted(*notes: str) -> Callable[..., object]:
    """What is interrupted when it is called; each note says what was lost."""

    def run(*_: object, **__: object) -> object:
        error = KeyboardInterrupt()
        for note in notes:
            error.add_note(note)
        raise error

    return run


def test_an_interrupt_of_bench_says_what_was_lost_and_what_is_kept(
    bench: Callable[..., Result],
) -> None:
    kept = "kernels that were compiled are kept for the next time"
    result = bench(interrupted())
    assert result.exit_code == 130
    assert result.stderr.splitlines()[-1] == f"interrupted: nothing is measured yet; {kept}"
    result = bench(interrupted("3 of 50 rounds were measured, and are lost"))
    lost = "3 of 50 rounds were measured, and are lost"
    assert result.stderr.splitlines()[-1] == f"interrupted: {lost}; {kept}"


def test_an_interrupt_that_an_import_turned_into_its_own_error_is_one(
    bench: Callable[..., Result],
) -> None:
    def run(request: Request) -> object:
        try:
            return interrupted()()
        except KeyboardInterrupt as e:
            raise ImportError("numpy is broken") from e

    assert bench(run).exit_code == 130


def test_every_command_can_be_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qpc.doctor.diagnose", interrupted())
    result = CliRunner().invoke(cli.app, ["doctor"])
    assert result.exit_code == 130
    assert result.stderr.endswith("interrupted: not everything was looked at\n")
    monkeypatch.setattr("qpc.demo.run_demo", interrupted())
    result = CliRunner().invoke(cli.app, ["demo"])
    assert result.exit_code == 130
    assert "interrupted: nothing is measured; kernels" in result.stderr


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


def test_a_package_that_is_missing_is_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise ModuleNotFoundError("No module named 'torch'")

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(SystemExit, match="1"):
        cli.main()
    text = "error: No module named 'torch'\n  fix: `qpc doctor` says what to install\n"
    assert capsys.readouterr().err == text

"""What is the same for all commands, tried on each of them."""

from __future__ import annotations

import importlib
import json
import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest

from qpc.bench.request import Request
from qpc.cli import Commands, whole_command
from qpc.commands import COMMANDS
from qpc.commands.quantize import Mode, config_of
from qpc.doctor import Check
from qpc.terminal.reporter import Reporter
from tests.commands.conftest import invoke

pytestmark = pytest.mark.tvm
MODEL = "network.py:model --input 1x3x16x16"

RIGHT = {
    "trace": f"{MODEL} --graph",
    "inspect": "net --channels --plan",
    "diff": "net net/graph --data data.safetensors",
    "quantize": f"{MODEL} --data photos --samples 4 --out {{new}}",
    "prune": f"{MODEL} --amount 0.4 --out {{new}}",
    "compress": "recipe.yaml --out run",
    "sweep": "recipe.yaml --set seed=0,1 --out runs",
    "compile": "net --batch 1,2 --out {new}",
    "export": "net {new}.onnx --data data.safetensors --samples 4 --batch 2",
    "verify": "net",
    "targets": "",
    "run": "net --data data.npz",
    "evaluate": "net --data data.safetensors",
    "explain": "net --data data.safetensors --samples 2",
    "report": "net --data data.safetensors --samples 2 --out {new}.html",
    "sensitivity": f"{MODEL} --data data.npz --bits 4 --fewer-channels 0.5",
    "bench": "net --rounds 1 --peer torch",
    "demo": "--quick",
    "doctor": "",
    "version": "",
}
WRONG = {
    "trace": [
        ("network.py", 1, "'network.py' is a file: which of its functions returns the model?"),
        ("network.py:model", 1, "the shape of the inputs of 'network.py:model' is not known"),
        ("network.py:Branch --input 1x3", 1, 'network.py", line '),
        (
            "network.py:broken --input 1x3",
            1,
            "raised RuntimeError: the disk of the teacher is full",
        ),
    ],
    "inspect": [
        ("nett", 1, "there is no folder 'nett' (did you mean 'net'?)"),
        ("photos", 1, "'photos' holds neither a saved graph nor a compiled model"),
        ("net --input 1x3x16x16", 1, "--input is for models that come from a function"),
    ],
    "diff": [
        ("net", 2, "Missing argument 'B'"),
        ("net nowhere", 1, "there is no folder 'nowhere'"),
        ("net/compiled net/graph", 1, "a compiled model alone has no layers to compare"),
    ],
    "quantize": [
        (f"{MODEL} --out {{new}}", 1, "quantize needs data"),
        ("net --data photos --out {new}", 1, "quantize needs a model in float"),
        (f"{MODEL} --data photos --weight-bits 9 --out {{new}}", 2, "--weight-bits"),
        (f"{MODEL} --data photos --out photos", 1, "'photos' holds something else: '0'"),
        (f"{MODEL} --data photos --target i860 --out {{new}}", 1, "unknown target 'i860'"),
        (f"{MODEL} --data photos --target x86-64 --config c.yaml --out {{new}}", 1, "says it all"),
    ],
    "prune": [
        (f"{MODEL} --criterion l3 --out {{new}}", 1, "there is no criterion 'l3'"),
        (f"{MODEL} --criterion taylor --out {{new}}", 1, "the criterion 'taylor' looks at data"),
        (f"{MODEL} --amount 2 --out {{new}}", 1, "amount"),
    ],
    "compress": [
        ("nowhere.yaml", 1, "the recipe is not there"),
        ("network.py", 1, "network.py"),
        ("recipe.yaml --out photos", 1, "'photos' holds something else than a run"),
    ],
    "sweep": [
        ("recipe.yaml --set seed", 2, "must be PATH=A,B, got 'seed'"),
        ("recipe.yaml --set sed=1,2", 1, "sed"),
        ("nowhere.yaml --set seed=1,2", 1, "the recipe is not there"),
    ],
    "compile": [
        (MODEL, 1, "where is the compiled model to be kept?"),
        ("net --batch 0", 2, "must be different numbers from 1, such as 1,8, got '0'"),
        ("net --target i860 --out {new}", 1, "unknown target 'i860'"),
        ("net --target cortex-m4", 1, "where is the library to be kept?"),
    ],
    "export": [
        ("nowhere x.onnx", 1, "there is no folder 'nowhere'"),
        ("net", 2, "Missing argument"),
        ("net x.onnx --form onnx-8", 1, "onnx-8"),
        ("net/compiled x.onnx", 1, "export needs a graph"),
        ("net x.onnx --data nowhere", 1, "there is no data at 'nowhere'"),
        ("net x.onnx --form pt2e --data photos", 1, "the form 'pt2e' makes no use of data"),
        ("net x.onnx --mean 0.5", 1, "--mean is about data, and there is none"),
        ("net x.onnx --data data.npz --batch 0", 2, "--batch"),
    ],
    "verify": [
        ("nowhere", 1, "'nowhere'"),
        ("net --cpu cortex-a53", 1, "--on, --cpu and --cc are for exported libraries"),
        ("net/graph", 1, "net/graph"),
    ],
    "targets": [
        ("cortex-m4", 2, "unexpected extra argument"),
        ("--all", 2, "No such option: --all"),
        ("--json=1", 2, "--json"),
    ],
    "run": [
        ("net", 1, "run needs data"),
        ("net --data data.npz --out out.txt", 2, "must end in .npz or .safetensors"),
        ("net/graph --data data.npz --how compiled", 1, "'net/graph' is not compiled"),
        ("net --data nowhere", 1, "there is no data at 'nowhere'"),
    ],
    "evaluate": [
        ("net", 1, "evaluate needs data"),
        ("net --data network.py", 1, "'network.py' is no data that QPC reads"),
        ("net --data photos --mean 1,2", 1, "--mean has 2 values, the model 3 channels"),
    ],
    "explain": [
        ("net/graph --data data.npz", 1, "the float model of 'net/graph' is not there"),
        ("net/compiled --data data.npz", 1, "explain needs a graph"),
        ("net", 1, "explain needs data"),
    ],
    "report": [
        ("net/graph --data data.npz", 1, "the float model of 'net/graph' is not there"),
        ("net --data data.npz --out net.pdf", 1, "a report is a file .html, got 'net.pdf'"),
        ("net", 1, "a report needs data"),
    ],
    "sensitivity": [
        (f"{MODEL} --data data.npz --bits x", 2, "must be numbers, got 'x'"),
        (f"{MODEL} --data data.npz --accuracy", 1, "--accuracy needs labels"),
        (f"{MODEL} --data data.npz --bits 9", 1, "bits"),
    ],
    "bench": [
        ("nowhere", 1, "'nowhere' does not exist"),
        ("net --peer tensorrt", 1, "unknown runtime 'tensorrt'"),
        ("net --rounds 0", 2, "--rounds"),
    ],
    "demo": [
        ("--slow", 2, "No such option: --slow"),
        ("now", 2, "unexpected extra argument"),
        ("--quiet --verbose", 2, "it says the opposite of --quiet"),
    ],
    "doctor": [
        ("--quick", 2, "No such option: --quick"),
        ("now", 2, "unexpected extra argument"),
        ("--log-format xml", 2, "--log-format"),
    ],
    "version": [
        ("--short", 2, "No such option: --short"),
        ("1", 2, "unexpected extra argument"),
        ("--settings nowhere.yaml", 2, "cannot read 'nowhere.yaml': No such file or directory"),
    ],
}
LONG = ("quantize", "prune", "compress", "sweep", "compile", "explain", "report", "sensitivity")
"""Commands that take a second even for a small network: most of it is the same with JSON."""
LAST = ("export", "demo", "doctor", "version", "diff", "sweep")
"""Commands after which there is not always one to type next."""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes long, and is tested elsewhere, answers at once."""
    monkeypatch.setattr("qpc.doctor.diagnose", lambda: [Check("torch", True, "2.13")])
    monkeypatch.setattr("qpc.demo.run_demo", lambda *, quick, say: {"seconds": 3})
    monkeypatch.setattr("qpc.demo.render", lambda result, console: console.print("a table"))
    found = SimpleNamespace(text="a table", data={"rounds": 1}, notes=())
    monkeypatch.setattr("qpc.bench.command.run", lambda request, *_: found)
    check = Request.check

    def checked(request: Request) -> None:
        if not str(request.model).startswith("net") or request.peers != ["torch"]:
            check(request)

    monkeypatch.setattr(Request, "check", checked)


def words_of(text: str, tmp_path: Path) -> list[str]:
    return shlex.split(text.format(new=tmp_path / "new"))


def test_every_command_is_tried_here() -> None:
    assert set(COMMANDS) == set(RIGHT) == set(WRONG)
    assert all(len(uses) >= 3 for uses in WRONG.values())


@pytest.mark.parametrize("name", COMMANDS)
def test_help_has_an_example_and_says_what_the_list_says(name: str) -> None:
    module = importlib.import_module(f"qpc.commands.{COMMANDS[name].module or name}")
    result = invoke(name, "--help")
    assert result.exit_code == 0
    assert "Example: qpc " in result.output
    assert module.EXAMPLE.startswith(f"qpc {name}")
    assert (whole_command(name).help or "").splitlines()[0] == COMMANDS[name].line
    assert COMMANDS[name].line in (module.command.__doc__ or "")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_place_for_the_result_may_be_named_by_one_letter(name: str) -> None:
    """Other programs write `-o`, and nobody should have to remember which command takes it."""
    spellings = [option.opts for option in whole_command(name).params if option.name == "out"]
    assert all("-o" in each for each in spellings if "--out" in each)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.thorough) if n in LONG[1:] else n for n in COMMANDS]
)
def test_right_use_prints_a_result_and_plain_lines_about_the_way(
    name: str, here: Path, tmp_path: Path
) -> None:
    result = invoke(name, *words_of(RIGHT[name], tmp_path))
    assert result.exit_code == 0, result.output
    assert result.stdout.strip()
    assert "\x1b" not in result.output, "no terminal, no escape codes"
    assert ("\nNext:\n  " in result.stderr) or name in LAST


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.thorough) if n in LONG else n for n in COMMANDS]
)
def test_with_json_there_is_nothing_else_on_stdout(name: str, here: Path, tmp_path: Path) -> None:
    result = invoke(name, *words_of(RIGHT[name], tmp_path), "--json", "--log-format", "json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["qpc"]
    assert all(json.loads(line)["event"] for line in result.stderr.splitlines())


@pytest.mark.parametrize(
    ("name", "words", "status", "text"),
    [(name, *use) for name, uses in WRONG.items() for use in uses],
)
def test_wrong_use_is_told_without_a_traceback(
    name: str, words: str, status: int, text: str, here: Path, tmp_path: Path
) -> None:
    result = invoke(name, *words_of(words, tmp_path))
    assert result.exit_code == status, result.output
    assert text in " ".join(result.stderr.replace("│", " ").split()) or text in result.stderr
    assert "Traceback" not in result.output
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("target", "mode", "pairs"),
    [
        (None, Mode.STATIC, "any"),
        ("x86-64-v3", Mode.STATIC, "safe"),
        ("x86-64-v3", Mode.DYNAMIC, "safe"),
        ("x86-64-v3", Mode.WEIGHT_ONLY, "any"),
        ("aarch64", Mode.STATIC, "any"),
    ],
)
def test_weights_are_rounded_as_is_fastest_on_a_target(
    target: str | None, mode: Mode, pairs: str
) -> None:
    found = config_of(None, mode, 8, 7, ["head*"], target)
    assert (found.default.weight.pairs, found.default.mode) == (pairs, mode.value)
    assert found.default.activation.bits == 7
    assert [each.pattern for each in found.overrides] == ["head*"]


def test_an_error_is_json_too(here: Path) -> None:
    result = invoke("inspect", "nett", "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["error"] == {
        "what": "there is no folder 'nett' (did you mean 'net'?), and it is no module:function",
        "fix": "pass module:function, file.py:function, a file .onnx, or a folder that QPC wrote",
    }


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in ("version", "targets")])
def test_an_interrupt_ends_with_130_and_a_line_that_says_what_is_kept(
    name: str, here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: Reporter, text: str, total: int | None = None) -> object:
        raise KeyboardInterrupt

    monkeypatch.setattr(Reporter, "phase", interrupted)
    result = invoke(name, *words_of(RIGHT[name], tmp_path))
    assert result.exit_code == 130
    assert result.stderr.splitlines()[-1].startswith("interrupted: ")
    assert result.stdout == ""


def test_a_command_that_nobody_knows_is_answered_with_the_nearest() -> None:
    result = invoke("quantise", "net")
    assert result.exit_code == 2
    assert "Did you mean 'quantize'?" in result.output


def test_the_shell_completes_commands_and_their_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("typer.completion._get_shell_name", lambda: "bash")
    group = Commands(name="qpc")
    names = [item.value for item in group.shell_complete(group.make_context("qpc", ["x"]), "co")]
    assert names == ["compress", "compile"]
    assert "_QPC_COMPLETE" in invoke("--show-completion", "bash").output

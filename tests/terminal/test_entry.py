from __future__ import annotations

import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner, Result

from qpc.errors import ConfigError, QPCError, VerificationError
from qpc.terminal.answer import Answer
from qpc.terminal.entry import callback_of
from qpc.terminal.plain import plain
from qpc.terminal.reporter import Reporter
from qpc.version import VERSION


def run(function: Callable[..., Answer], *words: str) -> Result:
    app = typer.Typer(add_completion=False)
    app.command("greet")(callback_of(function))
    return CliRunner().invoke(app, list(words))


@dataclass(frozen=True)
class Names:
    """Options that several commands have."""

    name: Annotated[str, typer.Argument()]
    times: Annotated[int, typer.Option(min=1)] = 1

    def check(self) -> None:
        if self.name == "nobody":
            raise ConfigError("nobody is greeted", fix="name somebody")


def greet(reporter: Reporter, names: Names, loud: bool = False) -> Answer:
    """Greet somebody."""
    reporter.note("greeting")
    logging.getLogger("qpc.tests").info("about to greet")
    text = " ".join(["hello", *[names.name] * names.times])
    return Answer(
        {"text": text, "settings": dict(reporter.settings)},
        (text.upper() if loud else text,),
        ("a note",),
        ("qpc greet again",),
    )


def test_a_class_of_options_stands_for_its_fields() -> None:
    result = run(greet, "you", "--times", "2", "--loud")
    assert result.exit_code == 0
    assert result.stdout == "HELLO YOU YOU\n"
    assert result.stderr.splitlines()[1:] == ["a note", "", "Next:", "  qpc greet again"]


def test_json_is_all_that_is_on_stdout() -> None:
    result = run(greet, "you", "--json")
    settings = {"name": "you", "times": 1, "loud": False}
    assert json.loads(result.stdout) == {
        "qpc": VERSION,
        "text": "hello you",
        "settings": settings,
    }


def test_quiet_leaves_results_and_verbose_adds_logs() -> None:
    quiet = run(greet, "you", "--quiet")
    assert (quiet.stdout, quiet.stderr) == ("hello you\n", "")
    assert "INFO: about to greet" in run(greet, "you", "--verbose").stderr
    assert "about to greet" not in run(greet, "you").stderr
    lines = run(greet, "you", "-v", "--log-format", "json", "--json").stderr.splitlines()
    found = [json.loads(line) for line in lines]
    assert [each["event"] for each in found] == ["note", "log", "note"]
    assert found[2]["text"] == "a note"
    assert (found[1]["level"], found[1]["logger"]) == ("info", "qpc.tests")


def test_loggers_are_afterwards_as_they_were() -> None:
    logger = logging.getLogger("qpc")
    before = (list(logger.handlers), logger.level, logger.propagate)
    run(greet, "you", "--verbose")
    assert (list(logger.handlers), logger.level, logger.propagate) == before


def test_options_are_checked_before_the_command_runs() -> None:
    result = run(greet, "nobody")
    assert result.exit_code == 1
    assert result.stderr == "error: nobody is greeted\n  fix: name somebody\n"


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (QPCError("it is odd", fix="make it even"), 1, "error: it is odd\n  fix: make it even\n"),
        (VerificationError("3 values differ"), 3, "error: 3 values differ\n"),
        (ImportError("no torch"), 1, "error: no torch\n  fix: `qpc doctor` says what to install\n"),
        (KeyboardInterrupt(), 130, "interrupted: nothing was written; go on\n"),
    ],
)
def test_each_kind_of_end_has_its_exit_code(error: BaseException, status: int, text: str) -> None:
    def fail(reporter: Reporter) -> Answer:
        """Fail."""
        reporter.kept = "go on"
        raise error

    result = run(fail)
    assert (result.exit_code, result.stderr, result.stdout) == (status, text, "")
    told = json.loads(run(fail, "--json").stdout)["error"]
    assert told["what"] in text


def test_a_bug_is_left_to_python() -> None:
    def fail(reporter: Reporter) -> Answer:
        """Fail."""
        raise KeyError("a bug")

    assert isinstance(run(fail).exception, KeyError)


def test_an_answer_may_be_a_failure() -> None:
    def fail(reporter: Reporter) -> Answer:
        """Fail."""
        return Answer({"missed": True}, ("a table",), problem="it was missed", status=3)

    result = run(fail)
    assert (result.exit_code, result.stdout) == (3, "a table\n")
    assert result.stderr == "error: it was missed\n"


def test_another_process_that_speaks_leaves_stdout_empty() -> None:
    def silent(reporter: Reporter) -> Answer:
        """Say nothing."""
        reporter.mute()
        return Answer(None)

    assert run(silent, "--json").output == ""


def test_settings_come_from_a_file_and_words_win(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("command: greet\nname: you\ntimes: 3\n")
    assert run(greet, "--settings", str(file)).stdout == "hello you you you\n"
    assert run(greet, "--settings", str(file), "--times", "1").stdout == "hello you\n"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("command: prune\n", "is about `qpc prune`"),
        ("command: greet\nage: 3\n", "has 'age', which is no option of `qpc greet`"),
        ("- 1\n", "must hold options by name"),
        ("a: [\n", "cannot read"),
    ],
)
def test_a_file_of_settings_that_is_wrong_is_wrong_usage(
    text: str, problem: str, tmp_path: Path
) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(text)
    result = run(greet, "you", "--settings", str(file))
    assert result.exit_code == 2
    assert problem in " ".join(result.stderr.replace("│", " ").split())


def test_values_have_a_form_in_json() -> None:
    @dataclass
    class Row:
        path: Path
        share: float

    assert plain([Row(Path("a"), float("inf")), {1: (True, None)}]) == [
        {"path": "a", "share": None},
        {"1": [True, None]},
    ]
    with pytest.raises(TypeError, match="object has no form in JSON"):
        plain(object())

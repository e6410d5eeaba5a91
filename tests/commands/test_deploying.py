from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

pytest.importorskip("tvm", reason="Apache TVM is not installed")

import qpc
from qpc import cli
from qpc.backends.tvm.runtime.model import CompiledModel
from tests.emulation import require_tools
from tests.generators import IntegerGraph

pytestmark = [pytest.mark.tvm, pytest.mark.arm]


def test_targets_are_listed() -> None:
    result = CliRunner().invoke(cli.app, ["targets"])
    assert result.exit_code == 0
    assert "raspberry-pi-4" in result.output
    lines = json.loads(CliRunner().invoke(cli.app, ["targets", "--json"]).stdout)["targets"]
    assert {"cortex-m4", "x86-64"} <= {line["name"] for line in lines}


def test_a_saved_graph_is_compiled_verified_and_timed(tmp_path: Path) -> None:
    require_tools("x86-64")
    g = IntegerGraph()
    qpc.save_graph(g.module(g.linear(g.image(8), 4)), tmp_path / "My Net-2")

    def call(*arguments: str | Path) -> str:
        result = CliRunner().invoke(cli.app, [*map(str, arguments)])
        assert result.exit_code == 0, result.output
        return result.output

    out = tmp_path / "library"
    text = call("compile", tmp_path / "My Net-2", "--target", "x86-64", "-o", out)
    assert "my_net_2 for x86-64, batch size 1" in text
    assert (out / "libmy_net_2.a").is_file()
    assert "every byte is as expected" in call("verify", out)
    assert "my_net_2 for x86-64 on this machine: " in call("bench", out, "--rounds", "3")
    timed = CliRunner().invoke(cli.app, ["bench", str(out), "--rounds", "3", "--json"])
    assert len(json.loads(timed.stdout)["milliseconds"]) == 3


@pytest.mark.thorough
def test_a_saved_graph_is_written_as_c(tmp_path: Path) -> None:
    g = IntegerGraph()
    qpc.save_graph(g.module(g.linear(g.image(8), 4)), tmp_path / "net")
    arguments = ["compile", tmp_path / "net", "--target", "cortex-m4", "--emit", "c"]
    result = CliRunner().invoke(cli.app, [*map(str, arguments), "-o", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert "int net_run(" in (tmp_path / "out" / "net.c").read_text()
    beside = [*map(str, arguments), "--constants", "blob", "-o", str(tmp_path / "beside")]
    result = CliRunner().invoke(cli.app, beside)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "beside" / "net_weights.bin").is_file()


@pytest.mark.thorough
def test_several_targets_become_one_library(tmp_path: Path) -> None:
    g = IntegerGraph()
    qpc.save_graph(g.module(g.linear(g.image(8), 4)), tmp_path / "net")
    arguments = ["compile", str(tmp_path / "net"), "--target", "aarch64,aarch64-dotprod"]
    result = CliRunner().invoke(cli.app, [*arguments, "-o", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert "instruction sets: aarch64, aarch64-dotprod" in result.output


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["compile", ".", "--target", "rpi4", "-o", "x"], "unknown target 'rpi4'"),
        (["compile", "nothere", "--target", "x86-64", "-o", "x"], "no folder 'nothere'"),
        (["verify", "nothere"], "'nothere' does not exist"),
        (["bench", "nothere", "--on", "ssh://pi"], "'nothere' does not exist"),
    ],
)
def test_what_cannot_be_is_said(arguments: list[str], text: str) -> None:
    result = CliRunner().invoke(cli.app, arguments)
    assert result.exit_code == 1
    assert text in result.stderr


def test_a_compiled_model_alone_replays_the_test_vectors_that_it_keeps(tmp_path: Path) -> None:
    g = IntegerGraph()
    gm = g.module(g.linear(g.image(8), 4))
    compiled = qpc.compile(gm)
    compiled.save(tmp_path / "alone")
    assert compiled._program is not None

    def verify(folder: str) -> Result:
        return CliRunner().invoke(cli.app, ["verify", str(tmp_path / folder)])

    result = verify("alone")
    assert result.exit_code == 0, result.output
    assert "verified with the test vectors that it keeps: 1 output equal" in result.output
    parts = compiled._parts
    (vector,) = parts.vectors
    for number, vectors in enumerate(((replace(vector, seed=1),), ())):
        CompiledModel(replace(parts, vectors=vectors), compiled._program.loaded).save(
            tmp_path / str(number)
        )
    assert (result := verify("0")).exit_code == 3
    assert "output 0 of batch size 1 has other bytes than the integer graph gives" in result.output
    assert (result := verify("1")).exit_code == 1
    assert "keeps no test vectors" in result.output

"""The page on edge targets, with its commands, in the order in which a reader types them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("tvm", reason="Apache TVM is not installed")

from tests.code_blocks import blocks_of, run_page
from tests.emulation import require_tools

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "edge.md"
FILES = {"c": "hello.c", "yaml": "my-board.yaml"}

pytestmark = [pytest.mark.tvm, pytest.mark.arm, pytest.mark.slow]


def test_the_commands_of_the_page_do_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_tools("raspberry-pi-4")
    require_tools("cortex-m4")
    monkeypatch.chdir(tmp_path)
    assert run_page(PAGE) == 1
    (tmp_path / "qpc").write_text(
        f'#!/bin/sh\nexec {sys.executable} -c "from qpc.cli import main; main()" "$@"\n'
    )
    (tmp_path / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    for command in ("qpc", "python"):
        (tmp_path / command).chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT)}
    count = 0
    for block in blocks_of(PAGE.read_text(encoding="utf-8")):
        if block.language in FILES:
            (tmp_path / FILES[block.language]).write_text(block.text)
        if block.language != "console":
            continue
        for line in block.text.splitlines():
            if line.startswith("$ "):
                done = subprocess.run(
                    line[2:],
                    shell=True,
                    env=environment,
                    capture_output=True,
                    text=True,
                    check=False,
                )
                assert done.returncode == 0, f"{line}: {done.stderr}"
                count += 1
            else:
                assert line in done.stdout
    assert count == 12
    names = [file.name for file in (tmp_path / "digits-pi").iterdir()]
    page = PAGE.read_text(encoding="utf-8")
    assert [name for name in names if f"`{name}`" not in page] == []

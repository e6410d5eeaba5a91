from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from qpc.backends.deploy.archive import archive
from qpc.backends.deploy.merge import merge
from qpc.backends.deploy.shared import shared_library
from tests.backends.deploy.models import deployable
from tests.backends.deploy.objects import function


def test_qpc_links_for_machines_that_it_knows() -> None:
    made = merge([function("net_run", "memcpy")], ["net_run"]).made
    library = shared_library(deployable("x86-64"), made, b"")
    assert isinstance(library, bytes)
    assert b"libnet.so\0" in library
    assert b"net_run\0" in library
    assert b"tvm" not in library


@pytest.mark.parametrize(
    ("target", "threads", "reason"),
    [
        ("cortex-m4", 1, "cortex-m4 has no loader for one"),
        ("x86-64", 2, "net_parallel is in the program"),
        ("riscv64", 1, "there is no C compiler for 'riscv64': .* is not installed"),
    ],
)
def test_where_there_is_none_the_reason_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, target: str, threads: int, reason: str
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    made = function("net_run")
    model = replace(deployable(target), threads=threads)
    said = shared_library(model, made, archive({"net.o": made}))
    assert isinstance(said, str)
    assert re.match(reason, said)

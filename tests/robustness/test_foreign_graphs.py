from __future__ import annotations

import sys
from pathlib import Path

import pytest

pytest.importorskip("tvm", reason="Apache TVM is not installed")

from qpc.backends.deploy.manifest import LibraryEntry, read_library
from qpc.backends.deploy.sample import VECTORS
from qpc.errors import BackendError
from tests import emulation_batch
from tests.robustness import foreign_graphs
from tests.robustness.foreign_graphs import FORMS, check

pytestmark = [pytest.mark.tvm, pytest.mark.arm]


def test_graphs_that_share_a_program_are_equal() -> None:
    assert list(check(FORMS["x86-64"], [1, 2])) == [(1, None), (2, None)]


def test_a_graph_that_has_no_room_on_the_board_is_no_fault(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(graphs: object, form: object, folder: Path) -> None:
        raise BackendError("gcc cannot build: section `.text' will not fit in region `FLASH'")

    monkeypatch.setattr(foreign_graphs, "assert_all_exact", full)
    monkeypatch.setattr(sys, "argv", ["", "--form", "m55", "--count", "2", "--seed", "1"])
    assert foreign_graphs.main() == 0
    said = capsys.readouterr().out
    assert said.startswith("m55: 0 of 2 graphs equal")
    assert said.endswith("m55: 2 have no room on the board [1, 2]\n")


def test_a_wrong_byte_is_a_fault_of_its_seed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    read = read_library

    def changed(path: Path) -> tuple[LibraryEntry, dict[str, bytes]]:
        entry, files = read(path)
        if path.name != "2":
            return entry, files
        vectors = bytearray(files[VECTORS])
        vectors[-1] ^= 1
        return entry, {**files, VECTORS: bytes(vectors)}

    monkeypatch.setattr(emulation_batch, "read_library", changed)
    monkeypatch.setattr(sys, "argv", ["", "--form", "x86-64", "--count", "2", "--seed", "1"])
    assert foreign_graphs.main() == 1
    said = capsys.readouterr().out
    assert "net2: test vector 0 is wrong" in said
    assert "repeat with: python -m tests.robustness.foreign_graphs --form x86-64 --count 1" in said
    assert "x86-64: 1 of 2 graphs equal in " in said


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("form", FORMS)
def test_many_graphs_are_equal_in_every_form(form: str) -> None:
    assert [fault for _, fault in check(FORMS[form], range(40)) if fault is not None] == []

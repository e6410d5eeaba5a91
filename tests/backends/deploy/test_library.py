from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from qpc.backends.deploy import elf
from qpc.backends.deploy.library import write_objects
from qpc.backends.deploy.manifest import read_library
from qpc.errors import ArtifactError, BackendError
from tests.backends.deploy.models import deployable
from tests.backends.deploy.objects import function


def code(*calls: str) -> list[bytes]:
    return [elf.write(function("net_run", "w_1", *calls))]


def test_a_folder_holds_all_that_belongs_to_a_library(tmp_path: Path) -> None:
    made = write_objects(deployable("x86-64"), code("memcpy", "expf"), tmp_path / "net")
    names = {"net.h", "libnet.a", "libnet.so", "main.c", "CMakeLists.txt", "vectors.bin"}
    assert {file.name for file in made.folder.iterdir()} == names | {"report.txt", "library.json"}
    assert made.needs == ("expf", "memcpy")
    assert (made.footprint.code, made.footprint.constants) == (16, 8)
    assert str(made) == (made.folder / "report.txt").read_text()


def test_its_manifest_says_what_is_in_it(tmp_path: Path) -> None:
    write_objects(replace(deployable("x86-64"), threads=2), code(), tmp_path / "net")
    entry, files = read_library(tmp_path / "net")
    assert (entry.name, entry.function, entry.arena_bytes) == ("net", "net_run", 256)
    assert (entry.library, entry.sources) == ("libnet.a", ["parallel_pthread.c"])
    assert entry.settings == {"batch": 1, "threads": 2}
    assert entry.bytes_of_a_case == len(files["vectors.bin"]) == 28
    assert "libnet.so" not in files
    report = files["report.txt"].decode()
    assert "no shared library: net_parallel is in the program" in report


def test_code_that_needs_tvm_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="the code needs functions of TVM: TVMFFIErrorSet"):
        write_objects(deployable("x86-64"), code("TVMFFIErrorSet"), tmp_path / "net")
    assert list(tmp_path.iterdir()) == []


def test_something_else_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "mine.txt").write_text("mine")
    with pytest.raises(ArtifactError, match=r"it holds 'mine\.txt', which is no part of"):
        write_objects(deployable("x86-64"), code(), tmp_path / "net")

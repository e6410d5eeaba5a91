from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from qpc import documents
from qpc.backends.deploy.manifest import DOCUMENT, library_kind
from qpc.backends.deploy.sample import VECTORS
from qpc.backends.deploy.verify import Where, time_library, verify
from qpc.errors import ArtifactError, BackendError, MissingDependencyError
from tests.backends.deploy.conftest import Exported
from tests.emulation import ARCHITECTURES, require_tools, run

pytestmark = [pytest.mark.tvm, pytest.mark.arm]


def copied(exported: Exported, target: str, folder: Path) -> Path:
    return Path(shutil.copytree(exported(target), folder / "library"))


def changed(folder: Path, name: str, data: bytes) -> None:
    """Change a file, and the manifest with it."""
    (folder / name).write_bytes(data)
    document = documents.parse((folder / DOCUMENT).read_bytes(), DOCUMENT, "")
    files = {n: (folder / n).read_bytes() for n in document["files"]}
    kept = {key: value for key, value in document.items() if key != "sha256"}
    (folder / DOCUMENT).write_bytes(documents.seal(kept | {"files": documents.described(files)}))


@pytest.mark.parametrize("target", ARCHITECTURES)
def test_every_byte_is_equal_on_every_architecture(exported: Exported, target: str) -> None:
    require_tools(target)
    result = run(exported(target))
    assert (result.cases, result.tolerances) == (2, (None, None))
    assert "2 exact outputs: every byte is as expected" in str(result)


@pytest.mark.thorough
@pytest.mark.parametrize("cpu", ["cortex-a53", "max"])
def test_another_cpu_may_be_emulated(exported: Exported, cpu: str) -> None:
    require_tools("aarch64")
    assert run(exported("aarch64"), cpu=cpu).where == f"in qemu-aarch64 -cpu {cpu}"


def test_one_wrong_byte_is_noticed(exported: Exported, tmp_path: Path) -> None:
    require_tools("x86-64")
    folder = copied(exported, "x86-64", tmp_path)
    vectors = bytearray((folder / VECTORS).read_bytes())
    vectors[-1] ^= 1
    changed(folder, VECTORS, bytes(vectors))
    text = "case 1: output 1 differs in 1 of 480 elements, first in element 479"
    with pytest.raises(BackendError, match=f"does not give the expected outputs on .*{text}"):
        verify(folder)


@pytest.mark.thorough
def test_vectors_that_lack_a_byte_are_noticed(exported: Exported, tmp_path: Path) -> None:
    require_tools("x86-64")
    folder = copied(exported, "x86-64", tmp_path)
    changed(folder, VECTORS, (folder / VECTORS).read_bytes()[:-1])
    with pytest.raises(BackendError, match="case 1: the expected output 1 cannot be read"):
        verify(folder)


@pytest.mark.thorough
def test_no_vectors_are_not_enough(exported: Exported, tmp_path: Path) -> None:
    require_tools("x86-64")
    folder = copied(exported, "x86-64", tmp_path)
    changed(folder, VECTORS, b"")
    with pytest.raises(BackendError, match="there are no test vectors in the file"):
        verify(folder)


@pytest.mark.parametrize("name", [VECTORS, "libnet.a", "net.h", "main.c"])
def test_a_file_that_changed_is_not_run(exported: Exported, tmp_path: Path, name: str) -> None:
    folder = copied(exported, "x86-64", tmp_path)
    (folder / name).write_bytes((folder / name).read_bytes()[:-3])
    with pytest.raises(ArtifactError, match=rf"{name} of .* is damaged: it has .* bytes, not "):
        verify(folder)


@pytest.mark.thorough
def test_a_library_of_another_architecture_does_not_link(
    exported: Exported, tmp_path: Path
) -> None:
    require_tools("x86-64")
    require_tools("aarch64")
    folder = copied(exported, "x86-64", tmp_path)
    changed(folder, "libnet.a", (exported("aarch64") / "libnet.a").read_bytes())
    with pytest.raises(BackendError, match="cannot build the test program: "):
        verify(folder)


def test_a_folder_that_holds_something_else(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"is not an exported library: it has no library\.json"):
        verify(tmp_path)


def test_a_manifest_that_leaves_its_folder_is_refused(exported: Exported, tmp_path: Path) -> None:
    folder = copied(exported, "x86-64", tmp_path)
    text = (folder / DOCUMENT).read_bytes().replace(b'"net.h"', b'"../net.h"')
    (folder / DOCUMENT).write_bytes(text)
    with pytest.raises(ArtifactError, match="is damaged: it names no files"):
        verify(folder)


def test_a_manifest_that_no_export_wrote_is_refused(exported: Exported, tmp_path: Path) -> None:
    folder = copied(exported, "x86-64", tmp_path)
    document = documents.parse((folder / DOCUMENT).read_bytes(), DOCUMENT, "")
    kept = {key: value for key, value in document.items() if key != "sha256"}
    (folder / DOCUMENT).write_bytes(documents.seal(kept | {"cases": 0}))
    with pytest.raises(ArtifactError, match=r"library\.json of .* is damaged: .*cases"):
        verify(folder)
    (folder / DOCUMENT).write_bytes(documents.seal(kept | {"target": {"name": "x"}}))
    with pytest.raises(ArtifactError, match=r"is damaged: target\.triple: Field required"):
        verify(folder)


def test_the_kind_of_folder_is_known() -> None:
    assert library_kind(["b", "a"]).files == ("b", "a")


@pytest.mark.thorough
def test_calls_are_timed_after_outputs_were_compared(exported: Exported) -> None:
    require_tools("x86-64")
    timed = time_library(exported("x86-64"), calls=3)
    assert len(timed.milliseconds) == 3
    assert "net for x86-64 on this machine: " in str(timed)
    with pytest.raises(BackendError, match="calls must be a positive number, got 0"):
        time_library(exported("x86-64"), calls=0)


@pytest.mark.thorough
def test_without_a_compiler_the_shared_library_is_called(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    if os.uname().machine != "x86_64":
        pytest.skip("the shared library is for x86-64")
    assert "as a shared library" in verify(exported("x86-64")).where
    assert len(time_library(exported("x86-64"), calls=2).milliseconds) == 2
    folder = copied(exported, "x86-64", tmp_path)
    vectors = bytearray((folder / VECTORS).read_bytes())
    vectors[-1] ^= 1
    changed(folder, VECTORS, bytes(vectors))
    with pytest.raises(BackendError, match="output 1 differs in 1 of 480 elements, first in elem"):
        verify(folder)


def test_a_machine_without_tools_says_what_to_install(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = exported("aarch64")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingDependencyError, match="qemu-aarch64 is not installed") as caught:
        verify(folder)
    assert caught.value.fix is not None
    assert "apt-get install gcc-aarch64-linux-gnu" in caught.value.fix


@pytest.mark.thorough
def test_another_compiler_may_be_named(exported: Exported) -> None:
    with pytest.raises(MissingDependencyError, match="no C compiler for 'x86-64': nothere is not"):
        verify(exported("x86-64"), Where(compiler="nothere"))


@pytest.mark.thorough
def test_a_compiler_for_another_cpu_is_no_compiler(exported: Exported) -> None:
    require_tools("aarch64")
    with pytest.raises(BackendError, match="cannot build the test program") as caught:
        verify(exported("x86-64"), Where(compiler="aarch64-linux-gnu-gcc"))
    assert caught.value.fix == "--cc takes a compiler for x86_64; without, it is GNU's"
    lines = caught.value.what.splitlines()
    assert len(set(lines)) == len(lines)


@pytest.mark.thorough
def test_a_cpu_that_the_emulator_does_not_know(exported: Exported) -> None:
    require_tools("aarch64")
    with pytest.raises(BackendError, match=r"QEMU knows no such CPU: .*cortex-a999") as caught:
        verify(exported("aarch64"), Where(cpu="cortex-a999"))
    assert caught.value.fix == "one of: qemu-aarch64 -cpu help"


@pytest.mark.thorough
def test_a_board_whose_core_lacks_what_the_code_uses(exported: Exported) -> None:
    require_tools("cortex-m4")
    with pytest.raises(BackendError, match="the core took an exception before all was done"):
        verify(exported("cortex-m4"), Where(cpu="mps2-an385"))

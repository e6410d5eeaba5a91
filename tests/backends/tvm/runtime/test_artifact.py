"""Saved models: what is loaded is what was saved, and damage of any kind is one clear error."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("tvm_ffi", reason="Apache TVM is not installed")
import torch

from qpc import documents
from qpc.backends import tvm
from qpc.backends.tvm.runtime.model import CompiledModel
from qpc.calls import aten
from qpc.errors import ArtifactError, BackendError
from qpc.runtime import abi
from qpc.targets import Target
from tests.generators import IntegerGraph

pytestmark = pytest.mark.tvm

FILES = ("manifest.json", "weights.safetensors", "kernels.so")


@pytest.fixture(scope="module")
def compiled() -> CompiledModel:
    g = IntegerGraph()
    q = g.conv2d(g.quantize(g.input(3, 6, 6)), 5, padding=(1, 1))
    y = g.call(aten.softmax.int, g.dequantize(g.linear(g.mean(q, (2, 3)), 4)), 1)
    return tvm.compile_graph(g.module(y, q), batch_sizes=(1, 3), threads=2)


@pytest.fixture
def saved(compiled: CompiledModel, tmp_path: Path) -> Path:
    compiled.save(tmp_path / "model")
    return tmp_path / "model"


def test_a_loaded_model_gives_the_same_bits(compiled: CompiledModel, saved: Path) -> None:
    loaded = tvm.load(str(saved))
    for batch in (1, 3):
        x = torch.randn(batch, 3, 6, 6)
        for got, wanted in zip(loaded(x), compiled(x), strict=True):
            assert torch.equal(got, wanted)
    assert loaded.signature == compiled.signature
    assert (loaded.target, loaded.threads) == (compiled.target, 2)
    assert loaded.report == compiled.report


def test_a_loaded_model_can_be_saved_again(saved: Path, tmp_path: Path) -> None:
    tvm.load(saved).save(tmp_path / "again")
    for name in FILES:
        assert (saved / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_a_model_without_kernels_can_be_saved(tmp_path: Path) -> None:
    g = IntegerGraph()
    x = g.input(2, 3)
    tvm.compile_graph(g.module(g.call(aten.reshape.default, x, [-1, 6]))).save(tmp_path / "model")
    assert tvm.load(tmp_path / "model")(torch.ones(1, 2, 3)).tolist() == [[1.0] * 6]


@pytest.mark.thorough
def test_a_fresh_process_loads_a_model_without_any_compiler(saved: Path) -> None:
    code = (
        "import sys, torch, qpc.backends.tvm as backend\n"
        f"y, q = backend.load({str(saved)!r})(torch.zeros(1, 3, 6, 6))\n"
        "print(tuple(y.shape), q.dtype)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": str(Path(__file__).parents[4]), "PATH": ""},
    )
    assert done.stdout == "(1, 4) torch.uint8\n"
    assert done.stderr == ""


def test_a_saved_model_has_no_other_files_and_no_pickle(saved: Path) -> None:
    assert sorted(p.name for p in saved.iterdir()) == sorted(FILES)
    manifest = json.loads((saved / "manifest.json").read_text())
    assert set(manifest["files"]) == set(FILES) - {"manifest.json"}
    assert manifest["target"]["features"] == list(Target.native().features)


def test_saving_replaces_an_earlier_model_and_leaves_nothing_else(
    compiled: CompiledModel, saved: Path
) -> None:
    (saved / "kernels.so").write_bytes(b"")
    compiled.save(saved)
    tvm.load(saved)
    assert [p.name for p in saved.parent.iterdir()] == ["model"]


# --- saving where one must not --------------------------------------------------------------------


def test_saving_leaves_other_folders_and_files_alone(
    compiled: CompiledModel, tmp_path: Path
) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("It was")
    (tmp_path / "notes.txt").write_text("mine")
    for name in ("thesis", "notes.txt"):
        with pytest.raises(
            ArtifactError, match=f"{name}' exists and cannot be replaced: it "
        ) as caught:
            compiled.save(tmp_path / name)
        assert caught.value.fix == "choose another name, or remove it"
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["chapter1.tex", "notes.txt", "thesis"]


def test_a_path_below_a_file_cannot_be_written(compiled: CompiledModel, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArtifactError, match="cannot save to"):
        compiled.save(tmp_path / "file" / "model")


# --- loading what one must not --------------------------------------------------------------------


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("name", FILES[1:])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (Path.unlink, "it is missing"),
        (_truncate, r"it has \d+ bytes, not \d+"),
        (_flip, "it does not match its hash"),
    ],
)
def test_damage_of_any_file_is_found_before_it_is_used(
    saved: Path, name: str, damage: Callable[[Path], object], message: str
) -> None:
    damage(saved / name)
    with pytest.raises(ArtifactError, match=f"{name} of '.*model' is damaged: {message}") as caught:
        tvm.load(saved)
    assert caught.value.fix == "copy the folder again, or compile and save the model again"


def _rewrite(saved: Path, *, seal: bool = True, **changes: Any) -> None:
    """Change entries of the manifest; sealed again, so that only their meaning is wrong."""
    path = saved / "manifest.json"
    manifest = json.loads(path.read_text()) | changes
    if seal:
        path.write_bytes(_sealed(manifest))
    else:
        path.write_text(json.dumps(manifest))


def _sealed(manifest: dict[str, Any]) -> bytes:
    return documents.seal({key: value for key, value in manifest.items() if key != "sha256"})


def test_a_changed_manifest_is_found(saved: Path) -> None:
    _rewrite(saved, seal=False, threads=64)
    with pytest.raises(
        ArtifactError, match=r"manifest.json of .* is damaged: it does not match its own hash"
    ):
        tvm.load(saved)


@pytest.mark.parametrize("text", ["", "{", "\x00\xff"])
def test_a_manifest_that_is_not_json_is_damage(saved: Path, text: str) -> None:
    (saved / "manifest.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ArtifactError, match=r"manifest.json.* is damaged: it is not JSON"):
        tvm.load(saved)


def test_versions_do_not_matter(saved: Path) -> None:
    _rewrite(saved, versions={"qpc": "9.8.7", "apache-tvm": "0.0.1"})
    assert tvm.load(saved).threads == 2


def test_what_later_versions_add_is_left_alone(compiled: CompiledModel, saved: Path) -> None:
    manifest = json.loads((saved / "manifest.json").read_text())
    manifest["report"]["weather"] = "fair"
    manifest["plans"]["1"][0]["colour"] = "blue"
    _rewrite(saved, **manifest, hook=1)
    loaded = tvm.load(saved)
    assert (loaded.report, loaded.plan) == (compiled.report, compiled.plan)


@pytest.mark.parametrize("entry", ["report", "plans"])
def test_what_cannot_be_understood_is_left_out(
    saved: Path, entry: str, caplog: pytest.LogCaptureFixture
) -> None:
    changes: dict[str, Any] = {entry: 1}
    _rewrite(saved, **changes)
    loaded = tvm.load(saved)
    assert loaded(torch.zeros(1, 3, 6, 6))[0].shape == (1, 4)
    assert f"the model runs, but its {entry[:4]}" in caplog.text
    if entry == "plans":
        with pytest.raises(BackendError, match="the steps of the model are described in a way"):
            loaded.profile()


@pytest.mark.parametrize(("number", "fix"), [(3, "install a newer QPC"), (0, "compile and save")])
def test_another_abi_is_refused(saved: Path, number: int, fix: str) -> None:
    _rewrite(saved, abi=number)
    wanted = f"model' has the ABI number {number}, this version of QPC knows 1, 2"
    with pytest.raises(ArtifactError, match=wanted) as caught:
        tvm.load(saved)
    assert str(caught.value.fix).startswith(fix)


def test_an_older_abi_is_read_and_saved_as_the_new_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    g = IntegerGraph()
    gm = g.module(g.conv2d(g.image(3, 6, 6), 8, (3, 3)))
    with monkeypatch.context() as before:
        before.setattr(abi, "ABI", 1)
        tvm.compile_graph(gm).save(tmp_path / "old")
    loaded = tvm.load(tmp_path / "old")
    loaded.save(tmp_path / "new")
    x = torch.randint(0, 256, (1, 3, 6, 6), dtype=torch.uint8)
    found = tvm.load(tmp_path / "new")(x)
    assert torch.equal(found[0], gm(x)[0])
    manifests = [(tmp_path / name / "manifest.json").read_text() for name in ("old", "new")]
    assert [json.loads(manifest)["abi"] for manifest in manifests] == [1, 2]


def test_no_abi_is_refused(saved: Path) -> None:
    _rewrite(saved, abi="1")
    with pytest.raises(ArtifactError, match="has no ABI number, this"):
        tvm.load(saved)


def test_another_format_version_is_refused(saved: Path) -> None:
    _rewrite(saved, format_version=2)
    with pytest.raises(
        ArtifactError,
        match=r"was saved by QPC .* in version 2 of the format, .*which reads version 7",
    ):
        tvm.load(saved)


def test_code_for_a_stronger_cpu_is_refused(saved: Path) -> None:
    target = json.loads((saved / "manifest.json").read_text())["target"]
    _rewrite(saved, target=target | {"name": "x86-64-next", "features": ["avx99"]})
    wanted = "was compiled for 'x86-64-next': this CPU lacks avx99"
    with pytest.raises(ArtifactError, match=wanted) as caught:
        tvm.load(saved)
    assert caught.value.fix == "compile it for this machine with target='native'"


def test_code_for_another_architecture_is_refused(saved: Path) -> None:
    target = json.loads((saved / "manifest.json").read_text())["target"]
    for triple, text in (("sparc64", "no code for 'sparc64"), ("riscv64", "code is for riscv64")):
        _rewrite(saved, target=target | {"triple": f"{triple}-unknown-linux-gnu"})
        with pytest.raises(ArtifactError, match=f"was compiled for .*: {text}"):
            tvm.load(saved)


@pytest.mark.parametrize("entry", ["signature", "entries", "places", "files", "target", "threads"])
def test_a_manifest_without_an_entry_is_damage(saved: Path, entry: str) -> None:
    manifest = json.loads((saved / "manifest.json").read_text())
    del manifest[entry]
    wanted = "it names other files" if entry == "files" else entry
    (saved / "manifest.json").write_bytes(_sealed(manifest))
    with pytest.raises(ArtifactError, match=rf"manifest.json of .* is damaged: .*{wanted}"):
        tvm.load(saved)


def test_what_is_not_a_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "manifest.json").write_text('{"name": "a web page"}')
    (tmp_path / "list").mkdir()
    (tmp_path / "list" / "manifest.json").write_text("[]")
    for name, message in {
        "nothing": "nothing' does not exist",
        "file": "file' is not a folder",
        "folder": "folder' is not a compiled model: it has no manifest.json",
        "other": "other' is not a compiled model: manifest.json is about something else",
        "list": "list/manifest.json' is damaged: it holds no JSON object",
    }.items():
        with pytest.raises(ArtifactError, match=message):
            tvm.load(tmp_path / name)


def test_what_is_no_file_is_not_waited_for(saved: Path) -> None:
    (saved / "kernels.so").unlink()
    os.mkfifo(saved / "kernels.so")
    with pytest.raises(ArtifactError, match=r"kernels\.so' is no regular file"):
        tvm.load(saved)


def test_a_copied_folder_still_loads(saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved, tmp_path / "elsewhere")
    os.rename(saved, tmp_path / "moved")
    tvm.load(tmp_path / "elsewhere")
    tvm.load(tmp_path / "moved")

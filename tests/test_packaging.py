from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {"qpc": "qpc", "passes": "qpc/passes", "backends": "qpc/backends"}


def modules_on_disk() -> set[str]:
    """Every module's path in the wheel; the folders that qpc/ links to are walked by themselves."""
    return {
        (Path(inside) / path.relative_to(ROOT / folder)).as_posix()
        for folder, inside in FOLDERS.items()
        for path in (ROOT / folder).rglob("*.py")
        if not path.is_relative_to(ROOT / "qpc/passes")
        and not path.is_relative_to(ROOT / "qpc/backends")
    }


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Built in a copy: setuptools leaves a build/ folder behind, and ships what it finds there.
    copy = tmp_path_factory.mktemp("source")
    for folder in FOLDERS:
        shutil.copytree(
            ROOT / folder,
            copy / folder,
            symlinks=True,
            ignore=shutil.ignore_patterns("__pycache__"),
        )
    for file in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / file, copy)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", "dist"]
    done = subprocess.run(
        command, cwd=copy, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    (built,) = (copy / "dist").glob("*.whl")
    return built


def test_every_package_folder_is_listed_in_the_project_file() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    listed = project["tool"]["setuptools"]["packages"]
    assert len(listed) == len(set(listed))
    assert set(listed) == {
        Path(module).parent.as_posix().replace("/", ".") for module in modules_on_disk()
    }


def test_the_wheel_holds_every_module_under_qpc_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert {name for name in names if name.endswith(".py")} == modules_on_disk()
    assert {name for name in names if not name.endswith(".py")} == {
        "qpc/py.typed",
        "qpc/assets/LICENSE-fashion-mnist.txt",
        "qpc/assets/fashion_mnist_subset.safetensors",
        "qpc/assets/resnet18_fashion_mnist.safetensors",
        "qpc/reporting/page.css",
        "qpc/reporting/page.html.j2",
        "qpc/reporting/page.js",
    }


def test_the_wheel_says_what_it_is(wheel: Path) -> None:
    assert wheel.name == "quantize_prune_compiler-0.1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        entry_points = archive.read(
            "quantize_prune_compiler-0.1.0.dist-info/entry_points.txt"
        ).decode()
        metadata = archive.read("quantize_prune_compiler-0.1.0.dist-info/METADATA").decode()
        licences = [name for name in archive.namelist() if ".dist-info/licenses/" in name]
    assert "qpc = qpc.cli:main" in entry_points
    assert "License-Expression: Apache-2.0" in metadata
    assert len(licences) == 2


def test_the_packages_import_from_the_wheel(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    output = run_python("import qpc.passes as p, qpc.backends as b; print(p, b)", tmp_path)
    assert output.count(str(tmp_path)) == 2


@pytest.mark.parametrize("folder", ["passes", "backends"])
def test_the_folders_refuse_to_be_imported_by_their_own_names(folder: str) -> None:
    message = f"this folder is the package 'qpc.{folder}'; it was imported as '{folder}'"
    with pytest.raises(ImportError, match=message):
        importlib.import_module(folder)


def test_importing_qpc_loads_neither_tvm_nor_a_pass() -> None:
    code = """
import sys
import qpc
print(*(name for name in sys.modules if name.split(".")[0] in ("tvm", "tvm_ffi")
        or name.startswith(("qpc.passes", "qpc.backends"))))
"""
    assert run_python(code, ROOT).split() == []


def run_python(code: str, folder: Path) -> str:
    """Return what `code` prints in a process that finds qpc in `folder`."""
    environment = os.environ | {"PYTHONPATH": str(folder)}
    command = [sys.executable, "-P", "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout

"""The runtime as a package of its own holds what it needs, and works without the rest."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.thorough
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    copy = tmp_path_factory.mktemp("source")  # setuptools leaves a build/ folder behind
    ignored = shutil.ignore_patterns("__pycache__", "passes", "backends")
    shutil.copytree(ROOT / "qpc", copy / "qpc", ignore=ignored)
    shutil.copytree(ROOT / "runtime", copy / "runtime")
    done = subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", "../dist"],
        cwd=copy / "runtime",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    (built,) = (copy / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def run(code: str, site: Path) -> str:
    """What code prints where qpc is only the unpacked package."""
    # An installation that leads to the source would find what is missing there.
    prefix = (
        f"import sys\nsys.path.insert(0, {str(site)!r})\n"
        "sys.meta_path[:] = [f for f in sys.meta_path if '__editable__' not in repr(f)]\n"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", prefix + code],
        env=dict(os.environ),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_says_what_it_is_and_needs_numpy(wheel: Path) -> None:
    assert wheel.name == "qpc_runtime-0.1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        about = archive.read("qpc_runtime-0.1.0.dist-info/METADATA").decode()
        names = archive.namelist()
    needed = [line for line in about.splitlines() if line.startswith("Requires-Dist")]
    assert needed == ["Requires-Dist: numpy"]
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_nothing_is_missing_and_nothing_is_there_for_nothing(site: Path) -> None:
    code = """
from qpc import runtime, errors
from qpc.runtime import load
import qpc.homes
print(*sorted(name for name in sys.modules if name.split(".")[0] == "qpc"))
print(*{name.split(".")[0] for name in sys.modules} & {"torch", "tvm", "pydantic", "safetensors"})
print(qpc.__file__, runtime.ABI)
"""
    loaded, others, where = run(code, site).splitlines()
    assert others == ""
    assert where == f"{site}/qpc/__init__.py 2"
    project = tomllib.loads((ROOT / "runtime/pyproject.toml").read_text(encoding="utf-8"))
    listed = set(project["tool"]["setuptools"]["py-modules"])
    packages = tuple(f"{name}." for name in project["tool"]["setuptools"]["packages"])
    used = {name for name in loaded.split() if not f"{name}.".startswith(packages)}
    assert used == listed | {"qpc"}


def test_what_is_not_there_is_said(site: Path) -> None:
    code = """
import qpc
try:
    qpc.trace
except qpc.QPCError as e:
    print(e.full_text)
"""
    assert run(code, site).splitlines() == [
        "qpc.trace is no part of the package qpc-runtime, which only runs compiled models",
        "  fix: pip install quantize-prune-compiler in its place; "
        "to load a model: qpc.runtime.load(path)",
    ]

"""Whatever says `pip install` says a line that works: our name, and an extra that there is."""

from __future__ import annotations

import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from qpc.installing import install_line
from qpc.version import DISTRIBUTION

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
PLACES = ("qpc", "passes", "backends", "docs", "examples", "benchmarks", "runtime", ".ci")
PAGES = ("README.md", "CONTRIBUTING.md", "Makefile", "requirements-models.txt", "constraints.txt")
COMMAND = re.compile(r"pip install ([^`&\n]*)")
EXTRA = re.compile(r"([\w-]+)\[([\w,{} -]+)\]")
_FIRST = r"(?>(?:-\S+ ?|\S+\.txt ?)*)'?([a-z][a-z0-9-]*)(?=['\[=\s]|$)"  # after options
MODELS = ROOT / "requirements-models.txt"
UNUSED = {
    "backports-strenum", "eagerpy", "future", "hf-xet", "httpx", "httpx2", "tqdm",
    "cuda-bindings", "triton",
}  # fmt: skip
"""What those packages ask for, and nothing that the tests use of them imports."""
OTHERS = {"torch", "apache-tvm", "apache-tvm-ffi", "pre-commit"}
"""Packages of others that a line may name: they are installed by themselves."""


def lines() -> list[tuple[str, str]]:
    """What follows `pip install`, wherever it stands, and in which file."""
    files = [ROOT / name for name in PAGES]
    for folder in PLACES:
        files += [path for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".md", "")]
    found = []
    for path in {file.resolve() for file in files if file.is_file()}:
        text = path.read_text(encoding="utf-8", errors="ignore")
        found += [(path.relative_to(ROOT).as_posix(), said) for said in COMMAND.findall(text)]
    return sorted(found)


def test_extras_that_are_named_are_ours_and_exist() -> None:
    assert len(lines()) > 10
    for path, said in lines():
        for name, extras in EXTRA.findall(said):
            if "{" in extras or name == "DISTRIBUTION":
                continue  # made by `install_line`
            assert name == DISTRIBUTION, path
            assert set(extras.split(",")) <= set(EXTRAS), path


def test_packages_that_are_named_are_ours_or_known() -> None:
    for path, said in lines():
        named = re.match(_FIRST, said)
        assert named is None or named[1] in {DISTRIBUTION, "qpc-runtime", *OTHERS}, (path, said)


@pytest.mark.parametrize("name", ["tvm", "plot"])
def test_the_line_names_the_extra(name: str) -> None:
    assert install_line(name) == f"pip install 'quantize-prune-compiler[{name}]'"
    assert name in EXTRAS


def test_every_extra_that_the_code_asks_for_exists_and_stands_in_the_table() -> None:
    page = (ROOT / "docs" / "installation.md").read_text(encoding="utf-8")
    table = set(re.findall(r"`([a-z0-9-]+)`", "".join(re.findall(r"^\| (.*?) \|", page, re.M))))
    assert table == set(EXTRAS)
    for folder in ("qpc", "backends", "passes"):
        for path in (ROOT / folder).rglob("*.py"):
            asked = re.findall(r"install_line\(['\"]([\w-]+)['\"]\)", path.read_text("utf-8"))
            assert set(asked) <= set(EXTRAS), path


def test_the_distribution_is_called_so_in_the_project_file() -> None:
    assert PROJECT["name"] == DISTRIBUTION


@pytest.mark.models
def test_packages_for_tests_come_with_all_they_import() -> None:
    """They are installed without what they ask for: a test that lacks it would be skipped."""
    lines = MODELS.read_text(encoding="utf-8").splitlines()
    listed = {canonicalize_name(line.partition("==")[0]) for line in lines if "==" in line}
    installed = {name for name in listed if not missing(name)}
    if not installed:
        pytest.skip("nothing of requirements-models.txt is installed")
    ours = [*PROJECT["dependencies"], *EXTRAS["tvm"], *EXTRAS["bench"], *EXTRAS["dev"]]
    there = {Requirement(text).name for text in ours}
    there = {name for name in there if not missing(name)}
    while more := {name for found in there for name in needs(found) if not missing(name)} - there:
        there |= more
    lacking = {need: name for name in installed for need in needs(name)}
    assert {k: v for k, v in lacking.items() if k not in listed | there | UNUSED} == {}


def missing(name: str) -> bool:
    """Whether no package of this name is installed."""
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return True
    return False


def needs(name: str) -> set[str]:
    """Which packages an installed one asks for here, without extras."""
    asked = [Requirement(text) for text in metadata.requires(name) or ()]
    return {
        canonicalize_name(one.name)
        for one in asked
        if one.marker is None or one.marker.evaluate({"extra": ""})
    }

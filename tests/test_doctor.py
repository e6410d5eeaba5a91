from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path

import pytest

from qpc import doctor
from qpc.children import Ended
from qpc.doctor import Check, diagnose
from qpc.errors import UnsupportedTargetError
from qpc.targets import Target

ROOT = Path(__file__).parents[1]
PINS = {
    **doctor.TESTED_VERSIONS,
    "apache-tvm": doctor.TVM_VERSION,
    "apache-tvm-ffi": doctor.TVM_FFI_VERSION,
}


def pretend_installed(monkeypatch: pytest.MonkeyPatch, **changes: str | None) -> None:
    """Let exactly the tested packages be installed, but for `changes` (with _ for -)."""
    versions: dict[str, str | None] = {**PINS}
    versions |= {name.replace("_", "-"): version for name, version in changes.items()}
    monkeypatch.setattr(doctor, "installed_version", versions.get)


def pretend_self_test(
    monkeypatch: pytest.MonkeyPatch, returncode: int, stdout: str = "", stderr: str = ""
) -> None:
    ended = Ended(returncode, stdout, stderr)
    monkeypatch.setattr(doctor, "run_module", lambda module, timeout: ended)


def by_name(checks: list[Check]) -> Mapping[str, Check]:
    return {check.name: check for check in checks}


@pytest.fixture
def _works(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_installed(monkeypatch)
    pretend_self_test(monkeypatch, 0, stdout="TVM works\n")


@pytest.mark.usefixtures("_works")
def test_everything_is_well_with_the_tested_versions() -> None:
    checks = diagnose()
    assert [check for check in checks if not check.ok] == []
    assert by_name(checks)["tvm compiles"].found == "TVM works"
    assert {check.name for check in checks} == {"python", "cpu", "tvm compiles", *PINS}


@pytest.mark.usefixtures("_works")
def test_a_missing_package_is_named_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pretend_installed(monkeypatch, safetensors=None)
    assert by_name(diagnose())["safetensors"] == Check(
        "safetensors", False, "not installed", "pip install safetensors==0.8.0"
    )


@pytest.mark.usefixtures("_works")
def test_a_package_that_is_too_old_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_installed(monkeypatch, torch="2.9.1+cpu")
    check = by_name(diagnose())["torch"]
    assert (check.ok, check.found) == (False, "2.9.1+cpu, older than 2.13")


@pytest.mark.usefixtures("_works")
def test_a_package_newer_than_tested_is_accepted_and_said_to_be_untested(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pretend_installed(monkeypatch, numpy="2.5.0", torch="2.13.0+cpu")
    checks = by_name(diagnose())
    assert (checks["numpy"].ok, checks["numpy"].found) == (True, "2.5.0 (tested with 2.4.6)")
    assert checks["torch"].found == "2.13.0+cpu"


@pytest.mark.usefixtures("_works")
def test_the_wrong_tvm_package_is_named_with_the_command_that_replaces_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pretend_installed(monkeypatch, tvm="0.4.0", apache_tvm=None)
    check = by_name(diagnose())["tvm"]
    assert not check.ok
    assert check.found == "the package 'tvm' 0.4.0 is not Apache TVM, and takes its place"
    assert check.fix.startswith("pip uninstall -y tvm apache-tvm && pip install --force-reinstall")


@pytest.mark.usefixtures("_works")
def test_a_tvm_ffi_that_crashes_is_named_with_the_command_that_pins_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pretend_installed(monkeypatch, apache_tvm_ffi="0.1.15.post2")
    assert by_name(diagnose())["apache-tvm-ffi"] == Check(
        "apache-tvm-ffi",
        False,
        "0.1.15.post2, but only 0.1.14.post1 works",
        "pip install apache-tvm==0.27.0.post1 apache-tvm-ffi==0.1.14.post1",
    )


@pytest.mark.usefixtures("_works")
def test_without_tvm_nothing_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_installed(monkeypatch, apache_tvm=None)
    checks = by_name(diagnose())
    assert checks["apache-tvm"].found == "not installed: models can be converted, but not compiled"
    assert "tvm compiles" not in checks


@pytest.mark.parametrize(
    ("returncode", "stderr", "found"),
    [
        (-11, "", "crashed with SIGSEGV"),
        (1, "Traceback\nImportError: no tirx\n", "ImportError: no tirx"),
        (3, "", "exit status 3"),
    ],
)
def test_a_tvm_that_fails_its_self_test_is_reported(
    monkeypatch: pytest.MonkeyPatch, returncode: int, stderr: str, found: str
) -> None:
    pretend_installed(monkeypatch)
    pretend_self_test(monkeypatch, returncode, stdout="half", stderr=stderr)
    check = by_name(diagnose())["tvm compiles"]
    assert (check.ok, check.found) == (False, found)


def test_a_tvm_that_hangs_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_installed(monkeypatch)
    monkeypatch.setattr(doctor, "run_module", lambda module, timeout: Ended(None))
    assert by_name(diagnose())["tvm compiles"].found == "no answer within 120 s"


@pytest.mark.usefixtures("_works")
def test_a_machine_without_a_target_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise UnsupportedTargetError("no target for this machine, a 'vax'")

    monkeypatch.setattr(Target, "native", fail)
    check = by_name(diagnose())["cpu"]
    assert (check.ok, check.found) == (False, "no target for this machine, a 'vax'")


@pytest.mark.usefixtures("_works")
def test_an_old_python_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.python_version", lambda: "3.10.4")
    assert by_name(diagnose())["python"] == Check(
        "python", False, "3.10.4", "install Python 3.11 or newer"
    )


@pytest.mark.thorough
@pytest.mark.tvm
def test_the_installed_tvm_compiles_and_runs_a_kernel() -> None:
    pytest.importorskip("tvm_ffi", reason="Apache TVM is not installed")
    check = by_name(diagnose())["tvm compiles"]
    assert check.ok, check.found
    assert re.fullmatch(r"TVM \S+ with LLVM \d+ compiled and ran a kernel", check.found)


def test_an_absent_package_has_no_version() -> None:
    assert doctor.installed_version("no-such-package-as-this") is None


def test_the_versions_agree_with_constraints_and_project_file() -> None:
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8").lower().splitlines()
    assert {f"{name}=={version}" for name, version in PINS.items()} <= set(constraints)

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    floors = doctor.MINIMUM_VERSIONS
    assert project["dependencies"] == [
        f"{name}>={floors[name]}" if name in floors else name for name in doctor.TESTED_VERSIONS
    ]
    assert project["requires-python"] == f">={doctor.MINIMUM_PYTHON}"
    assert project["optional-dependencies"]["tvm"] == [
        f"apache-tvm=={doctor.TVM_VERSION}",
        f"apache-tvm-ffi=={doctor.TVM_FFI_VERSION}",
    ]


@pytest.mark.tvm
def test_the_versions_agree_with_those_that_the_backend_accepts() -> None:
    pytest.importorskip("tvm_ffi", reason="Apache TVM is not installed")
    from qpc.backends.tvm import compat

    assert compat.TVM_VERSION == doctor.TVM_VERSION
    assert compat.FFI_VERSION == doctor.TVM_FFI_VERSION

"""What this machine has of what QPC needs, and how to get the rest.

Versions are read from the packages' metadata, without importing them, and TVM is tried in a process
of its own, because a wrong combination of its packages can crash the interpreter.
"""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass
from importlib import metadata

from qpc.children import run_module
from qpc.errors import UnsupportedTargetError
from qpc.plugins import Plugin, installed_plugins
from qpc.targets import Target

TVM_VERSION = "0.27.0.post1"
TVM_FFI_VERSION = "0.1.14.post1"

# The versions the tests ran with. Others are reported, and refused only below the minimum.
TESTED_VERSIONS = {
    "torch": "2.13.0",
    "numpy": "2.4.6",
    "networkx": "3.6.1",
    "safetensors": "0.8.0",
    "pydantic": "2.14.3",
    "typer": "0.29.2",
    "rich": "15.0.0",
    "pyyaml": "6.0.3",
    "jinja2": "3.1.6",
}
MINIMUM_VERSIONS = {"torch": "2.13", "pydantic": "2"}
MINIMUM_PYTHON = "3.11"

_TIMEOUT_S = 120
_INSTALL_TVM = f"pip install apache-tvm=={TVM_VERSION} apache-tvm-ffi=={TVM_FFI_VERSION}"
# The two packages put their files into one folder: removing the wrong one damages the right one.
_REPLACE_TVM = (
    "pip uninstall -y tvm apache-tvm && "
    f"pip install --force-reinstall --no-deps apache-tvm=={TVM_VERSION} "
    f"apache-tvm-ffi=={TVM_FFI_VERSION}"
)


@dataclass(frozen=True)
class Check:
    """One thing looked at: whether it will do, what was found, and the command that mends it."""

    name: str
    ok: bool
    found: str
    fix: str = ""


def diagnose() -> list[Check]:
    """Return every check, in the order in which failures should be mended."""
    checks = [_check_python(), _check_cpu()]
    checks += [_check_package(name) for name in TESTED_VERSIONS]
    checks += _check_tvm_packages()
    if installed_version("apache-tvm") is not None:
        checks.append(_check_tvm_works())
    checks += [_check_plugin(group, plugin) for group, plugin in installed_plugins()]
    return checks


def installed_version(package: str) -> str | None:
    """Return the version of an installed package, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _check_python() -> Check:
    found = platform.python_version()
    ok = _release(found) >= _release(MINIMUM_PYTHON)
    return Check("python", ok, found, f"install Python {MINIMUM_PYTHON} or newer")


def _check_cpu() -> Check:
    fix = "see the list of targets in the documentation, and compile for one of them"
    try:
        target = Target.native()
    except UnsupportedTargetError as error:
        return Check("cpu", False, error.what, fix)
    return Check("cpu", True, f"{os.cpu_count()} cores, target {target.name!r}")


def _check_package(package: str) -> Check:
    tested, minimum = TESTED_VERSIONS[package], MINIMUM_VERSIONS.get(package, "0")
    found = installed_version(package)
    if found is None:
        return Check(package, False, "not installed", f"pip install {package}=={tested}")
    if _release(found) < _release(minimum):
        text = f"{found}, older than {minimum}"
        return Check(package, False, text, f"pip install {package}=={tested}")
    untested = _release(found) != _release(tested)
    return Check(package, True, f"{found} (tested with {tested})" if untested else found)


def _check_tvm_packages() -> list[Check]:
    checks = []
    if (stranger := installed_version("tvm")) is not None:
        text = f"the package 'tvm' {stranger} is not Apache TVM, and takes its place"
        checks.append(Check("tvm", False, text, _REPLACE_TVM))
    for package, wanted in (("apache-tvm", TVM_VERSION), ("apache-tvm-ffi", TVM_FFI_VERSION)):
        found = installed_version(package)
        if found is None:
            text = "not installed: models can be converted, but not compiled"
            checks.append(Check(package, False, text, _INSTALL_TVM))
        elif found != wanted:
            text = f"{found}, but only {wanted} works"
            checks.append(Check(package, False, text, _INSTALL_TVM))
        else:
            checks.append(Check(package, True, found))
    return checks


def _check_tvm_works() -> Check:
    name = "tvm compiles"
    done = run_module("qpc.backends.tvm.selftest", timeout=_TIMEOUT_S)
    if done.status is None:
        return Check(name, False, f"no answer within {_TIMEOUT_S} s", _REPLACE_TVM)
    if done.status != 0:
        return Check(name, False, done.last_words, _REPLACE_TVM)
    return Check(name, True, done.output.strip())


def _check_plugin(group: str, plugin: Plugin) -> Check:
    """Whether what a package brings can be loaded, tried in a process of its own."""
    name, package = f"{group}: {plugin.name}", f"{plugin.package} {plugin.version}"
    done = run_module("qpc.extensions", group, plugin.name, timeout=_TIMEOUT_S)
    if done.status == 0:
        return Check(name, True, f"of {package}")
    fix = f"pip install --force-reinstall {plugin.package}, another version of it, or none"
    return Check(name, False, f"of {package}: {done.last_words}", fix)


def _release(version: str) -> tuple[int, ...]:
    """Return the numbers of a version without its suffix: (2, 13, 0) of "2.13.0+cpu"."""
    match = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in match[0].split(".")) if match else ()

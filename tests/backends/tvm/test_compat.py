from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch.fx import Graph, GraphModule

from qpc.backends import tvm
from qpc.backends.tvm import compat
from qpc.errors import ArtifactError, MissingDependencyError


@pytest.fixture(autouse=True)
def _forget() -> Iterator[None]:
    compat.require_tvm.cache_clear()
    yield
    compat.require_tvm.cache_clear()


def _versions(monkeypatch: pytest.MonkeyPatch, **found: str | None) -> None:
    table = {"apache-tvm": compat.TVM_VERSION, "apache-tvm-ffi": compat.FFI_VERSION} | {
        name.replace("_", "-"): version for name, version in found.items()
    }
    monkeypatch.setattr(compat, "installed_version", table.get)


def test_without_tvm_the_error_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    _versions(monkeypatch, apache_tvm=None)
    gm = GraphModule(torch.nn.Module(), Graph())
    with pytest.raises(MissingDependencyError, match="apache-tvm is not installed") as caught:
        tvm.compile_graph(gm)
    assert caught.value.fix == "pip install 'quantize-prune-compiler[tvm]'"
    with pytest.raises(ArtifactError, match="'x' does not exist"):  # which needs no TVM
        tvm.load("x")


def test_a_version_that_crashes_is_refused_before_it_is_imported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _versions(monkeypatch, apache_tvm_ffi="0.1.15.post2")
    wanted = rf"apache-tvm-ffi 0.1.15.post2 is installed, .* needs {compat.FFI_VERSION}"
    with pytest.raises(MissingDependencyError, match=wanted) as caught:
        compat.require_tvm()
    assert f"pip install apache-tvm-ffi=={compat.FFI_VERSION}" in str(caught.value.fix)


def test_the_right_versions_are_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    _versions(monkeypatch)
    compat.require_tvm()


def test_versions_are_read_without_an_import() -> None:
    assert compat.installed_version("numpy") == np.__version__
    assert compat.installed_version("no-such-package") is None


@pytest.mark.thorough
def test_ctrl_c_during_the_import_waits_for_its_end() -> None:
    done = subprocess.run([sys.executable, "-c", _INTERRUPTED], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "interrupted\nwhole\nKeyboardInterrupt\n")


_INTERRUPTED = """
import builtins, signal
from qpc.backends.tvm.compat import require_tvm

imported, original = [], builtins.__import__

def interrupting(name, *args, **kwargs):
    if name.startswith("tvm"):
        imported.append(name)
        if len(imported) in (3, 30, 300):  # at any depth
            signal.raise_signal(signal.SIGINT)
    return original(name, *args, **kwargs)

builtins.__import__ = interrupting
try:
    require_tvm()
except KeyboardInterrupt:
    assert len(imported) > 300
    print("interrupted")
builtins.__import__ = original

require_tvm()
from tvm import relax, tirx, ir
import tvm_ffi
print("whole")

def stop():
    raise KeyboardInterrupt

try:
    tvm_ffi.convert(stop)()  # in a function that TVM calls
except KeyboardInterrupt as e:
    print(type(e).__name__)
"""


def test_a_broken_tvm_is_an_error_that_says_to_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise AttributeError("partially initialized module")

    monkeypatch.setattr("importlib.import_module", fail)
    wanted = "TVM cannot be imported: AttributeError: partially initialized module"
    with pytest.raises(MissingDependencyError, match=wanted) as caught:
        compat.require_tvm()
    assert str(caught.value.fix).startswith("restart Python")


def test_importing_the_backend_does_not_import_tvm() -> None:
    code = "import sys, qpc.backends.tvm; print('tvm' in sys.modules or 'tvm_ffi' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"

"""The import of TVM: in the versions that this backend is written for, and never half of it.

Its modules register types and functions with its C++ side, which cannot be done twice. An import
that was interrupted would leave a process in which TVM cannot be imported any more.
"""

from __future__ import annotations

import functools
import importlib
from importlib import metadata

from qpc.errors import MissingDependencyError
from qpc.installing import install_line
from qpc.interrupts import deferred_signals

TVM_VERSION = "0.27.0.post1"
FFI_VERSION = "0.1.14.post1"
"""Later 0.1.x releases satisfy apache-tvm's own requirement but crash in several of its functions.
"""

_WANTED = {"apache-tvm": TVM_VERSION, "apache-tvm-ffi": FFI_VERSION}
_INSTALL = install_line("tvm")


_MODULES = ("tvm", "tvm.relax.frontend.torch")
"""All that is ever imported of it: the first brings most of the rest along."""
_ENDINGS = (KeyboardInterrupt, SystemExit, GeneratorExit)


@functools.cache
def require_tvm() -> None:
    """Import TVM, with signals such as Ctrl-C waiting for the end of it.

    Raises MissingDependencyError, with the pip command, unless the right TVM is installed.
    """
    check_versions()
    with deferred_signals():
        try:
            for name in _MODULES:
                importlib.import_module(name)
        except Exception as e:
            raise MissingDependencyError(
                f"TVM cannot be imported: {type(e).__name__}: {e}",
                fix="restart Python, as an earlier import may have been interrupted; if that does"
                f" not help: {_INSTALL} --force-reinstall",
            ) from e
        _let_endings_pass()


def _let_endings_pass() -> None:
    """Ctrl-C in a function that TVM calls stays what it is; TVM would make it a RuntimeError."""
    from tvm_ffi import register_error

    for ending in _ENDINGS:
        register_error(ending.__name__, ending)


def check_versions() -> None:
    """Raise MissingDependencyError unless the right TVM is installed; imports nothing of it."""
    for package, wanted in _WANTED.items():
        found = installed_version(package)
        if found is None:
            raise MissingDependencyError(f"{package} is not installed", fix=_INSTALL)
        if found != wanted:
            raise MissingDependencyError(
                f"{package} {found} is installed, this version of QPC needs {wanted}",
                fix=f"{_INSTALL}  (or: pip install {package}=={wanted})",
            )


def installed_version(package: str) -> str | None:
    """The installed version of a package, without importing it."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None

"""The versions of TVM that this backend is written for, checked before TVM is imported."""

from __future__ import annotations

import functools
from importlib import metadata

from qpc.errors import MissingDependencyError

TVM_VERSION = "0.27.0.post1"
FFI_VERSION = "0.1.14.post1"
"""Later 0.1.x releases satisfy apache-tvm's own requirement but crash in several of its functions.
"""

_WANTED = {"apache-tvm": TVM_VERSION, "apache-tvm-ffi": FFI_VERSION}
_INSTALL = "pip install 'qpc[tvm]'"


@functools.cache
def require_tvm() -> None:
    """Raise MissingDependencyError, with the pip command, unless the right TVM is installed."""
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

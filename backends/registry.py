"""Which backends there are: QPC's own, those that were registered, those that packages name.

Packages name theirs in their metadata:

    [project.entry-points."qpc.backends"]
    my-backend = "my_package.module:BACKEND"

Metadata is read only when a name is asked for that QPC does not know, and only the entry of that
name is loaded: a package that is broken disturbs nobody who does not ask for it.
"""

from __future__ import annotations

import importlib
from typing import cast

from qpc.backends.protocol import Backend
from qpc.errors import BackendError, ConfigError
from qpc.plugins import ExtensionPoint
from qpc.settings import is_kebab_case

PLUGINS = ExtensionPoint("qpc.backends", "backend", BackendError)
DEFAULT = "tvm"
_OWN = {"reference": "qpc.backends.reference.backend", "tvm": "qpc.backends.tvm.backend"}
_MUST = "must be an object with the members of qpc.Backend, got"
_registered: dict[str, Backend] = {}


def register_backend(backend: Backend) -> Backend:
    """Make a backend known by its name, and return it.

    Raises ConfigError for what is no backend, and for a name that is taken.
    """
    if problem := _problem(backend):
        raise ConfigError(f"a backend {problem}", fix="see qpc.backends.protocol")
    if backend.name in _OWN or _registered.get(backend.name, backend) is not backend:
        raise ConfigError(f"there is a backend {backend.name!r} already", fix="choose another name")
    _registered[backend.name] = backend
    return backend


def find_backend(name: str) -> Backend | None:
    """The backend of a name; None if there is none.

    Raises BackendError, which names the package, if that cannot be loaded or has no backend there.
    """
    if name in _registered:
        return _registered[name]
    if name in _OWN:
        found: Backend = importlib.import_module(_OWN[name]).BACKEND
        _registered[name] = found
        return found

    def problem(found: object) -> str | None:
        called = getattr(found, "name", None)
        return _problem(found) or (None if called == name else f"calls itself {called!r}")

    backend = cast("Backend | None", PLUGINS.load(name, problem))
    if backend is not None:
        _registered[name] = backend
    return backend


def known_backends() -> tuple[str, ...]:
    """The names of all backends, those of packages included, none of which are loaded."""
    return tuple(sorted({*_OWN, *_registered, *PLUGINS.names()}))


def _problem(backend: object) -> str | None:
    """What is wrong with what is given as a backend; None if nothing is."""
    if isinstance(backend, type):
        return f"{_MUST} the class {backend.__name__}"
    if not isinstance(backend, Backend):
        return f"{_MUST} {type(backend).__name__}"
    if not is_kebab_case(backend.name):
        return f"needs a name in kebab-case, got {backend.name!r}"
    return None

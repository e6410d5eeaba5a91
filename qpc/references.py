"""Functions of the user's, named in a recipe as `module:function` or `file.py:function`."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from qpc.errors import ConfigError
from qpc.families import nearest

_SCRIPT = ".py"


def function_of(reference: str, folder: Path, field: str) -> Callable[..., object]:
    """The function that a recipe names. Importing its module runs the user's code.

    folder: of the recipe, to which files are relative and in which modules are looked for, too.
    field: of the recipe, for errors. Raises ConfigError if it is not there.
    """
    module, _, name = reference.rpartition(":")
    if not module or not name:
        raise ConfigError(
            f"{field} must be module:function or file.py:function, got {reference!r}",
            fix=f"such as {field}: train.py:{field.rpartition('.')[2]}",
        )
    loaded = _file(folder / module, field) if module.endswith(_SCRIPT) else _module(module, folder)
    found: object = getattr(loaded, name, None)
    if found is None:
        known = [
            each
            for each, value in vars(loaded).items()
            if callable(value) and not each.startswith("_")
        ]
        raise ConfigError(
            f"{field}: {module!r} has nothing called {name!r}", fix=nearest(name, known)
        )
    if not callable(found):
        raise ConfigError(
            f"{field}: {reference!r} is {type(found).__name__}, not a function",
            fix=f"name a function that returns the {field}",
        )
    return found


def relative(reference: str, old: Path, new: Path) -> str:
    """The same reference, or path, for a recipe in another folder."""
    module, colon, name = reference.rpartition(":")
    if colon and not module.endswith(_SCRIPT):
        return reference
    path = Path(module if colon else reference)
    moved = path if path.is_absolute() else Path(os.path.relpath(old / path, new))
    return f"{moved.as_posix()}{colon}{name if colon else ''}"


def _file(path: Path, field: str) -> ModuleType:
    absolute = path.resolve()
    if not absolute.is_file():
        raise ConfigError(f"{field}: there is no file {str(path)!r}", fix="check the path")
    known = sys.modules.get(str(absolute))
    if known is not None:
        return known
    spec = importlib.util.spec_from_file_location(absolute.stem, absolute)
    assert spec is not None  # for a path that ends in .py there is one
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[str(absolute)] = module
    # By its own name, too, where dataclasses and others look for what a function belongs to.
    sys.modules.setdefault(absolute.stem, module)
    try:
        with _findable(absolute.parent):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[str(absolute)]
        if sys.modules.get(absolute.stem) is module:
            del sys.modules[absolute.stem]
        raise
    return module


def _module(name: str, folder: Path) -> ModuleType:
    try:
        with _findable(folder.resolve()):
            return importlib.import_module(name)
    except ModuleNotFoundError as e:
        if e.name is None or not f"{name}.".startswith(f"{e.name}."):
            raise  # something that the module itself imports
        raise ConfigError(
            f"there is no module {name!r}",
            fix="install it, or name a file: file.py:function",
        ) from e


@contextmanager
def _findable(folder: Path) -> Iterator[None]:
    """Modules beside a file are found while it is imported, as when it is run."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        if str(folder) in sys.path:
            sys.path.remove(str(folder))

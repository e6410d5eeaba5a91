"""Families: classes of one kind, each under a name that files and error messages can use.

    @CRITERIA.named("largest-weight")
    @dataclass(frozen=True)
    class LargestWeight(ParameterCriterion):
        ...

A family stands beside the protocol or base class of its kind. `qpc.to_yaml` and `qpc.from_yaml`
know the families of QPC; packages add classes to them. Passes have their names already, as a class
keyword. A family with a group of entry points finds the classes of installed packages by itself;
see `qpc.plugins`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from typing import TypeVar, cast

from qpc.errors import ConfigError
from qpc.plugins import ExtensionPoint
from qpc.settings import is_kebab_case

_C = TypeVar("_C", bound=type)


class Family:
    """Classes by name.

    name: what one of them is, such as "criterion". base: the class or protocol that all of them
    have in common, by which the types of fields name the family. group: of the entry points of
    packages that bring more, such as "qpc.criteria"; None if none can.
    """

    def __init__(self, name: str, base: type, *, group: str | None = None) -> None:
        self.name, self.base = name, base
        self.plugins = None if group is None else ExtensionPoint(group, name, ConfigError)
        self._classes: dict[str, type] = {}

    def __repr__(self) -> str:
        return f"Family({self.name!r})"

    def named(self, name: str) -> Callable[[_C], _C]:
        """A decorator that gives a class its name in kebab-case.

        Raises ConfigError for another kind of name, and for one that is taken.
        """
        if not is_kebab_case(name):
            raise ConfigError(f"the name of a {self.name} must be in kebab-case, got {name!r}")

        def add(cls: _C) -> _C:
            known = self._classes.get(name, cls)
            if _place(known) != _place(cls):
                raise ConfigError(
                    f"there is a {self.name} {name!r} already: {_place(known)}",
                    fix="choose another name",
                )
            self._classes[name] = cls
            return cls

        return add

    def find(self, name: str) -> type | None:
        """The class of a name; None if there is none.

        Raises ConfigError, which names the package, if one brings that name and is broken.
        """
        known = self._known(name)
        if known is not None or self.plugins is None:
            return known
        return cast("type | None", self.plugins.load(name, lambda found: self._adopt(name, found)))

    def name_of(self, cls: type) -> str | None:
        """The name of a class; None if it has none."""
        return next((name for name, known in self._classes.items() if known is cls), None)

    def _known(self, name: str) -> type | None:
        """The class of a name, of those that have been imported."""
        return self._classes.get(name)

    def _known_names(self) -> Iterable[str]:
        return self._classes

    def _adopt(self, name: str, found: object) -> str | None:
        """Give what a package brings its name there; else what is wrong with it."""
        if not isinstance(found, type):
            return f"must be a class, got {type(found).__name__}"
        if not issubclass(found, self.base):
            return f"must be a class like {self.base.__name__}, got {found.__name__}"
        if (called := self.name_of(found)) not in (None, name):
            return f"is called {called!r} by its class"
        try:
            self.named(name)(found)
        except ConfigError as e:
            return f"cannot have its name: {e.what}"
        return None

    def names(self) -> tuple[str, ...]:
        """All names in alphabetical order; classes of installed packages stay unloaded."""
        installed = self.plugins.names() if self.plugins else ()
        return tuple(sorted({*self._known_names(), *installed}))


class KindFamily(Family):
    """Classes of settings that say their names themselves, in a field `kind`."""

    def named(self, name: str) -> Callable[[_C], _C]:
        """As `Family.named`; ConfigError too for a class whose `kind` has another default."""
        add = super().named(name)

        def checked(cls: _C) -> _C:
            kind = getattr(cls, "model_fields", {}).get("kind")
            if kind is None or kind.default != name:
                raise ConfigError(
                    f"the {self.name} {cls.__name__} must have a field `kind` with default "
                    f"{name!r}",
                    fix=f'kind: Literal["{name}"] = "{name}"',
                )
            return add(cls)

        return checked


def nearest(name: str, known: Iterable[str]) -> str:
    """What to do about a name that is not known: the nearest one, or all of them."""
    choices = sorted(known)
    close = difflib.get_close_matches(name, choices)
    return f"did you mean {close[0]!r}?" if close else f"one of {', '.join(choices) or 'none'}"


def _place(cls: type) -> str:
    return f"{cls.__module__}.{cls.__qualname__}"

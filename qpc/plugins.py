"""What installed packages bring to QPC, found by their entry points.

A package names in its metadata what it brings, under the group of its kind:

    [project.entry-points."qpc.criteria"]
    largest-weight = "my_package:LargestWeight"

Metadata is read only when a name is asked for that QPC does not know, and only the entry of that
name is loaded: a package that is broken disturbs nobody who does not ask for it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points

from qpc.errors import QPCError

_OURS = "qpc."


@dataclass(frozen=True)
class Plugin:
    """One entry of a package: its name, and the package with its version."""

    name: str
    package: str
    version: str


@dataclass(frozen=True)
class ExtensionPoint:
    """A kind of thing that packages may bring.

    group: of their entry points. word: what one of them is, such as "criterion". error: what is
    raised about them.
    """

    group: str
    word: str
    error: type[QPCError]

    @property
    def plural(self) -> str:
        """Several of them, in words."""
        return self.group.removeprefix(_OURS).replace("_", " ")

    def plugins(self) -> tuple[Plugin, ...]:
        """What all packages name, in alphabetical order; nothing is loaded."""
        found = {Plugin(entry.name, *_package(entry)) for entry in entry_points(group=self.group)}
        return tuple(sorted(found, key=lambda plugin: (plugin.name, plugin.package)))

    def names(self) -> tuple[str, ...]:
        """The names of these, each once."""
        return tuple(dict.fromkeys(plugin.name for plugin in self.plugins()))

    def load(self, name: str, problem: Callable[[object], str | None]) -> object | None:
        """What a package brings under a name; None if none does.

        problem: what is wrong with it, in words that go on after its name; None if nothing is.

        Raises `error`, which names the package, if it cannot be loaded, if something is wrong with
        it, or if several packages bring that name.
        """
        entries = list(entry_points(group=self.group, name=name))
        if len({entry.value for entry in entries}) > 1:
            packages = " and ".join(sorted(repr(_package(entry)[0]) for entry in entries))
            raise self.error(
                f"there are several {self.plural} {name!r}: of {packages}",
                fix="uninstall all but one of these packages",
            )
        if not entries:
            return None
        package = _package(entries[0])[0]
        what = f"the {self.word} {name!r} of the package {package!r}"
        try:
            found: object = entries[0].load()
        except (Exception, SystemExit) as e:  # a module of somebody else's may raise anything
            raise self.error(
                f"{what} cannot be loaded: {type(e).__name__}: {e}",
                fix="install it anew, or in another version",
            ) from e
        if wrong := problem(found):
            raise self.error(f"{what} {wrong}", fix="tell those who made the package")
        return found


def installed_plugins() -> list[tuple[str, Plugin]]:
    """All entries of all packages for QPC, with their groups, be they known or not."""
    groups = sorted(group for group in entry_points().groups if group.startswith(_OURS))
    points = (ExtensionPoint(group, "plug-in", QPCError) for group in groups)
    return [(point.group, plugin) for point in points for plugin in point.plugins()]


def _package(entry: EntryPoint) -> tuple[str, str]:
    """Name and version."""
    return (entry.dist.name, entry.dist.version) if entry.dist else ("an unknown package", "")

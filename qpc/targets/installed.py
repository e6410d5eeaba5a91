"""Targets that installed packages bring, by the entry points of the group `qpc.targets`.

    [project.entry-points."qpc.targets"]
    my-board = "my_package:MY_BOARD"

What stands there is a `qpc.Target` with that name.
"""

from __future__ import annotations

from typing import cast

from qpc.errors import UnsupportedTargetError
from qpc.plugins import ExtensionPoint
from qpc.targets.target import Target

PLUGINS = ExtensionPoint("qpc.targets", "target", UnsupportedTargetError)


def find_installed(name: str) -> Target | None:
    """The target that a package brings under a name; None if none does.

    Raises UnsupportedTargetError, which names the package, if that is broken.
    """

    def problem(found: object) -> str | None:
        if not isinstance(found, Target):
            return f"must be a qpc.Target, got {type(found).__name__}"
        return None if found.name == name else f"calls itself {found.name!r}"

    return cast("Target | None", PLUGINS.load(name, problem))


def all_installed() -> tuple[list[Target], list[UnsupportedTargetError]]:
    """All targets of packages that can be loaded, and what is wrong with the others."""
    found, problems = [], []
    for name in PLUGINS.names():
        try:
            target = find_installed(name)
        except UnsupportedTargetError as e:
            problems.append(e)
        else:
            found += [target] if target else []
    return found, problems

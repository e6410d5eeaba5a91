"""Everything that installed packages bring to QPC: `qpc doctor` lists it, and tries each.

Run as a module with a group and a name it loads what a package brings there, and fails with one
line if that cannot be done: in a process of its own, as what others wrote may do anything.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping

from qpc.backends import registry
from qpc.errors import QPCError
from qpc.families import nearest
from qpc.plugins import ExtensionPoint
from qpc.targets import installed
from qpc.yaml_form import FAMILIES

_FAMILIES = {family.plugins: family.find for family in FAMILIES if family.plugins is not None}
FINDERS: Mapping[ExtensionPoint, Callable[[str], object]] = {
    registry.PLUGINS: registry.find_backend,
    installed.PLUGINS: installed.find_installed,
    **_FAMILIES,
}
"""Every kind of thing that packages may bring, and what finds one by its name."""


def main(arguments: list[str]) -> int:
    """Load what a package brings under the name in a group; 1 if that cannot be done."""
    group, name = arguments
    find = next((find for point, find in FINDERS.items() if point.group == group), None)
    if find is None:
        fix = nearest(group, [point.group for point in FINDERS])
        sys.stderr.write(f"QPC has no entry points {group!r}: {fix}\n")
        return 1
    try:
        find(name)
    except QPCError as e:
        sys.stderr.write(f"{e.what}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

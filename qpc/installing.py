"""What to type to install what is missing: one line, told wherever something is missing."""

from __future__ import annotations

from qpc.version import DISTRIBUTION


def install_line(extra: str) -> str:
    """The command that installs QPC's packages for an extra, such as "tvm"."""
    return f"pip install '{DISTRIBUTION}[{extra}]'"

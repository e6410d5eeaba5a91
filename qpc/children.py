"""Modules of QPC in Python processes of their own, which may crash, hang or be killed.

A child imports what this process would, but nothing from the current folder: a file there that is
called like a package would be run in its place.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

_PACKAGES = str(Path(__file__).parent.parent)


@dataclass(frozen=True)
class Ended:
    """How a child ended.

    status: its exit status, minus the signal that ended it, or None if its time was over.
    """

    status: int | None
    output: str = ""
    errors: str = ""

    @property
    def last_words(self) -> str:
        """Why it failed, in one line."""
        if self.status is None:
            return "its time was over"
        if self.status < 0:
            return f"crashed with {signal.Signals(-self.status).name}"
        return (self.errors.strip().splitlines() or [f"exit status {self.status}"])[-1]


def run_module(
    module: str, *arguments: str, timeout: float | None = None, temporary: Path | None = None
) -> Ended:
    """Run `python -m module arguments...` to its end, or kill it after `timeout` seconds.

    temporary: where it puts its temporary files, which a child that is killed leaves behind. When
    this process is interrupted, the child is killed, too.
    """
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(import_folders())}
    if temporary is not None:
        environment["TMPDIR"] = str(temporary)
    child = subprocess.Popen(
        [sys.executable, "-P", "-m", module, *arguments],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
    )
    try:
        output, errors = child.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        return Ended(None)
    finally:
        # Not left to `with child`, which does not wait for a child after an interrupt.
        child.kill()
        child.wait()
        for pipe in (child.stdout, child.stderr):
            if pipe is not None:
                pipe.close()
    return Ended(child.returncode, output, errors)


def import_folders() -> list[str]:
    """Where this process finds modules, without the current folder unless QPC itself is in it."""
    folders = [os.path.abspath(f) for f in sys.path if f and not _is_current(f)]
    return folders if _PACKAGES in folders else [_PACKAGES, *folders]


def _is_current(folder: str) -> bool:
    try:
        return os.path.samefile(folder, os.curdir)
    except OSError:  # one of them is gone
        return False

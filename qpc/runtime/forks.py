"""What has to be made anew in a forked process: locks that were held, threads that are gone."""

from __future__ import annotations

import functools
import os
import weakref
from typing import Protocol


class Renewable(Protocol):
    """Something that does not survive a fork as it is."""

    def renew(self) -> None:
        """Make it work in this process, which has one thread, and was just forked from another."""


def renew_in_forks(thing: Renewable) -> None:
    """Call `thing.renew()` in every process that is forked while it lives."""
    _things().add(thing)


@functools.cache
def _things() -> weakref.WeakSet[Renewable]:
    things: weakref.WeakSet[Renewable] = weakref.WeakSet()

    def renew() -> None:
        for thing in list(things):
            thing.renew()

    os.register_at_fork(after_in_child=renew)
    return things

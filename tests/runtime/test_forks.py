from __future__ import annotations

import gc
import os

from qpc.runtime.forks import renew_in_forks


class Counter:
    def __init__(self) -> None:
        self.renewed = 0

    def renew(self) -> None:
        self.renewed += 1


def test_things_are_renewed_in_the_child_only() -> None:
    counter = Counter()
    renew_in_forks(counter)
    pid = os.fork()
    if pid == 0:
        os._exit(counter.renewed)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1
    assert counter.renewed == 0


def test_things_are_not_kept_alive() -> None:
    freed = []

    class Watched(Counter):
        def __del__(self) -> None:
            freed.append(1)

    renew_in_forks(Watched())
    gc.collect()
    assert freed

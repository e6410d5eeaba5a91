from __future__ import annotations

import pytest

pytest.importorskip("tvm")

from qpc.backends.tvm.measure.peak import peak
from qpc.targets import Target

pytestmark = pytest.mark.tvm


def test_the_loop_runs_and_says_how_much_it_does() -> None:
    loop = peak(Target.parse("native"))
    loop.run()
    assert loop.macs > 1_000_000
    assert peak(Target.parse("native")) is loop

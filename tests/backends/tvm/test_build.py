from __future__ import annotations

import pytest

pytest.importorskip("tvm")

from qpc.backends.tvm.build import tvm_target
from qpc.errors import UnsupportedTargetError
from qpc.target import TARGETS, Target

pytestmark = pytest.mark.tvm


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_llvm_knows_the_features_of_every_target(target: Target) -> None:
    assert list(tvm_target(target).attrs.get("mattr", [])) == list(target.mattr)


def test_a_feature_that_llvm_does_not_know_is_refused(capfd: pytest.CaptureFixture[str]) -> None:
    target = Target("mine", "x86_64-unknown-linux-gnu", ("sse4.1", "magic"), 4, "generic")
    with pytest.raises(UnsupportedTargetError, match="LLVM knows no features magic of target"):
        tvm_target(target)
    capfd.readouterr()  # LLVM says so, too

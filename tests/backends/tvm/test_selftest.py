from __future__ import annotations

import re

import pytest

pytest.importorskip("tvm_ffi", reason="Apache TVM is not installed")
pytestmark = pytest.mark.tvm


def test_the_self_test_names_the_versions_that_worked(capsys: pytest.CaptureFixture[str]) -> None:
    from qpc.backends.tvm import selftest

    selftest.main()
    printed = capsys.readouterr().out
    assert re.fullmatch(r"TVM \S+ with LLVM \d+ compiled and ran a kernel\n", printed)


def test_the_self_test_fails_on_wrong_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    from qpc.backends.tvm import selftest

    monkeypatch.setattr("numpy.array_equal", lambda a, b: False)
    with pytest.raises(SystemExit, match=r"a compiled kernel returned wrong numbers: \[-8, -7"):
        selftest.main()

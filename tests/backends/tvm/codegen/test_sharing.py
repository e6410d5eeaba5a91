"""What shares work among threads is linked where it is needed, for machines with words for it."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest

pytest.importorskip("tvm_ffi", reason="Apache TVM is not installed")

from qpc.backends.tvm.codegen import sharing
from qpc.backends.tvm.codegen.cache import open_cache
from qpc.backends.tvm.codegen.sharing import shares_work, sharing_code
from qpc.errors import UnsupportedTargetError
from qpc.targets import Target
from tests.robustness.small_models import small_model

pytestmark = pytest.mark.tvm

MACHINES = {"x86_64": 62, "aarch64": 183, "riscv64": 243}  # e_machine of ELF


@pytest.mark.parametrize("machine", MACHINES)
def test_there_is_code_for_a_machine(machine: str) -> None:
    text = sharing._filled(sharing._MACHINES[machine], f"{machine}-unknown-linux-gnu", None)
    code = sharing._object_file(text)
    assert struct.unpack_from("<H", code, 18) == (MACHINES[machine],)
    for name in (b"qpc_share", b"qpc_work", b"qpc_stop", b"qpc_pool_key", b"pthread_getspecific"):
        assert name in code


@pytest.mark.thorough
def test_only_code_with_parallel_loops_has_it() -> None:
    assert shares_work(sharing_code(Target.native(), open_cache(False)))
    for threads in (1, 2):
        library = small_model(threads)._parts.code.library
        assert (b"qpc_work" in library) == (threads == 2)
        assert b"libtvm" not in library


def test_a_machine_without_words_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "_MACHINES", {})
    with pytest.raises(UnsupportedTargetError, match="code for x86_64 cannot share its work") as e:
        sharing_code(replace(Target.native(), name="mine"), open_cache(False))
    assert e.value.fix == "compile it with threads=1"

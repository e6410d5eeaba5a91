from __future__ import annotations

import ctypes
import gc
import threading
from pathlib import Path

import pytest

pytest.importorskip("tvm")

from qpc.errors import BackendError
from qpc.runtime.library import Library, pool_key
from tests.robustness.small_models import small_model

pytestmark = pytest.mark.tvm


@pytest.fixture(scope="module")
def code() -> bytes:
    code = small_model(2)._parts.code.library
    gc.collect()
    for thread in threading.enumerate():  # those of the model end in their own time
        if thread.name.startswith("qpc-"):
            thread.join()
    return code


def _mappings() -> int:
    gc.collect()
    return Path("/proc/self/maps").read_text().count("/memfd:qpc")


@pytest.mark.thorough
def test_a_library_is_unloaded_with_the_last_of_its_functions(code: bytes) -> None:
    before = _mappings()
    library = Library(code)
    function = library.function("run_1")
    assert _mappings() > before
    del library
    assert _mappings() > before
    del function
    assert _mappings() == before


@pytest.mark.thorough
def test_two_libraries_of_equal_code_are_two(code: bytes) -> None:
    libraries = [Library(code), Library(code)]
    places = {
        ctypes.cast(library.function("run_1"), ctypes.c_void_p).value  # type: ignore[arg-type]  # a function is a pointer, too
        for library in libraries
    }
    assert len(places) == 2


def test_code_knows_whether_it_shares_its_work(code: bytes) -> None:
    assert Library(code).shares_work
    assert not Library(small_model(1)._parts.code.library).shares_work


def test_what_is_no_library_is_an_error() -> None:
    with pytest.raises(BackendError, match="cannot use a temporary file for machine code: "):
        Library(b"no library")


def test_a_function_that_is_not_there_is_an_error(code: bytes) -> None:
    with pytest.raises(BackendError, match="the code of the model has no function 'fly'"):
        Library(code).function("fly")


def test_a_process_may_have_no_keys_left(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        @staticmethod
        def pthread_key_create(*_: object) -> int:
            return 11  # EAGAIN

    pool_key.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr("qpc.runtime.library.ctypes.CDLL", lambda _: Full)
        with pytest.raises(BackendError, match="no memory left that belongs to a thread"):
            pool_key()

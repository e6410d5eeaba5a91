from __future__ import annotations

import ctypes
import gc
from pathlib import Path

import pytest

pytest.importorskip("tvm")
import torch

import qpc
from qpc.backends.tvm.runtime.library import Library
from qpc.errors import BackendError
from tests.robustness.small_models import small_model
from tests.small_models import Call

pytestmark = pytest.mark.tvm


@pytest.fixture(scope="module")
def code() -> bytes:
    return small_model(2)._parts.code.library


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


def test_code_that_calls_functions_of_tvm_by_name_finds_them() -> None:
    model = Call(lambda x: torch.topk(x, 3))  # TVM has a function that sorts
    gm = qpc.trace(model, torch.randn(2, 8))
    first, second = qpc.compile(gm, cache=False), qpc.compile(gm, cache=False)
    x = torch.randn(1, 8)
    for compiled in (first, second, first):
        for got, wanted in zip(compiled(x), torch.topk(x, 3), strict=True):
            assert torch.equal(got, wanted)

from __future__ import annotations

import pytest

from qpc.backends.tvm.codegen.c_text import Parameter, read_function
from qpc.errors import BackendError

PRINTED = """// tvm target: {"kind":"c"}
#define TVM_EXPORTS
#include "tvm/runtime/base.h"
void* __tvm_ffi__library_ctx = NULL;
#ifdef __cplusplus
extern "C"
#endif
TVM_DLL int32_t kernel(int32_t* arg0_ptr, float* arg1_ptr, uint8_t* scratch);
#ifdef __cplusplus
extern "C"
#endif
TVM_DLL int32_t kernel(int32_t* arg0_ptr, float* arg1_ptr, uint8_t* scratch) {
@body@
  return 0;
}

"""


def printed(*lines: str) -> str:
    return PRINTED.replace("@body@", "\n".join(f"  {line}" for line in lines))


def test_a_kernel_is_a_static_function_that_reads_constants() -> None:
    function = read_function(printed("arg1_ptr[0] = sqrtf(((float)arg0_ptr[0]));"))
    assert function.parameters[:2] == (
        Parameter("int32_t", "arg0_ptr"),
        Parameter("float", "arg1_ptr"),
    )
    assert function.calls == {"sqrtf"}
    assert function.definition("root_1", reads=1) == (
        "static void root_1(const int32_t *restrict arg0_ptr,\n"
        "                   float *restrict arg1_ptr,\n"
        "                   uint8_t *restrict scratch)\n"
        "{\n  (void)scratch;\n  arg1_ptr[0] = sqrtf(((float)arg0_ptr[0]));\n}\n"
    )


def test_pointers_that_may_be_equal_are_not_restricted() -> None:
    function = read_function(printed("arg1_ptr[0] = 1.0f;"))
    text = function.definition("one_1", reads=0, apart=False)
    assert "static void one_1(int32_t *arg0_ptr,\n                  float *arg1_ptr," in text


def test_loops_whose_vectors_fill_the_registers_stay_loops() -> None:
    inner = (
        "for (int32_t v = 0; v < 3; ++v) {",
        "  sums[0] = add_four_products(sums[0], a, b);",
        "}",
    )
    body = read_function(printed("for (int32_t i = 0; i < 9; ++i) {", *inner, "}")).body
    assert body.splitlines()[3:6] == [
        "  for (int32_t i = 0; i < 9; ++i) {",
        "  ROLLED",
        "  for (int32_t v = 0; v < 3; ++v) {",
    ]
    assert body.count("ROLLED") == 1


def test_bits_are_taken_by_functions_and_not_through_pointers() -> None:
    function = read_function(
        printed(
            "float v = (*(float *)(&(arg0_ptr[(1 + 2)]))) + (*(float *)(&(1262485504)));",
            "arg0_ptr[0] = (*(int32_t *)(&(v)));",
        )
    )
    assert "float v = (as_float(arg0_ptr[(1 + 2)])) + (as_float(1262485504));" in function.body
    assert "arg0_ptr[0] = (as_integer(v));" in function.body
    assert not function.calls


def test_infinities_are_bits_and_need_no_header() -> None:
    function = read_function(printed("arg1_ptr[0] = -inff;", "arg1_ptr[1] = inff_is_a_name;"))
    assert "arg1_ptr[0] = -as_float(2139095040);" in function.body
    assert "inff_is_a_name" in function.body


def test_variables_that_nothing_reads_are_left_out() -> None:
    lines = ("int32_t v = arg0_ptr[1];", "int32_t w = (v * 2);", "arg0_ptr[0] = 1;")
    body = read_function(printed(*lines)).body
    assert body == "  (void)arg1_ptr;\n  (void)scratch;\n  arg0_ptr[0] = 1;\n"


def test_what_c_does_not_have_is_refused() -> None:
    with pytest.raises(BackendError, match="kernel 'kernel' calls TVMThing, which C does not have"):
        read_function(printed("TVMThing(arg0_ptr);"))
    with pytest.raises(BackendError, match="kernel 'kernel' can fail, which C source does not"):
        read_function(printed("if (arg0_ptr[0]) return -1;"))
    with pytest.raises(BackendError, match="kernels that call one another cannot be written as C"):
        read_function(printed("arg0_ptr[0] = 1;") * 2)
    with pytest.raises(BackendError, match="TVM printed C whose brackets do not match"):
        read_function(printed("float v = *(float *)(&(arg0_ptr[0];"))

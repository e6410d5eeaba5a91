from __future__ import annotations

from collections.abc import Callable

import pytest

pytest.importorskip("tvm", reason="Apache TVM is not installed")

import tvm
from tvm.tirx.script import builder as T

from qpc.backends.tvm.codegen.c_functions import lower_kernels
from qpc.backends.tvm.codegen.c_scalars import in_scalars
from qpc.backends.tvm.kernels.emit import (
    Flat,
    cast,
    copy,
    fill,
    integer,
    local,
    loop,
    prim_func,
    shuffle,
)
from qpc.backends.tvm.kernels.kernel import TensorType
from qpc.errors import BackendError

pytestmark = pytest.mark.tvm


def printed(body: Callable[[Flat, Flat], None]) -> str:
    """What TVM prints of a function of two tensors of bytes."""
    function = prim_func("kernel", [TensorType((100,), "uint8")] * 2, body)
    target = tvm.target.Target({"kind": "c"})
    with target, tvm.transform.PassContext(opt_level=3):
        lowered = lower_kernels(tvm.IRModule({tvm.ir.GlobalVar("kernel"): function}), target)
        plain = {gv: in_scalars(f) for gv, f in lowered.functions_items()}
        build = tvm.get_global_func("target.build.c")
        return str(build(tvm.IRModule(plain), target).inspect_source())


def test_vectors_are_copied_whole_and_filled_one_by_one() -> None:
    def body(x: Flat, y: Flat) -> None:
        copy(y, 0, x, 5, 64)
        copy(y, 64, x, 0, 3)
        fill(y, 70, T.IntImm("uint8", 7), 30)

    text = printed(body)
    assert "memcpy((&(arg1_ptr[0])), (&(arg0_ptr[5])), (uint32_t)64);" in text
    assert "arg1_ptr[(64 + i)] = arg0_ptr[i];" in text
    assert "arg1_ptr[(70 + i_1)] = (uint8_t)7;" in text


def test_registers_are_arrays_and_lanes_that_change_places_are_stored_by_themselves() -> None:
    def body(x: Flat, y: Flat) -> None:
        total = local(1, "int32")
        total.store(0, integer(0))
        with loop(10) as i:
            total.store(0, total.load(0) + cast(x.load(i), "int32", 1))
        parts = [T.cast(total.load(0), "uint8"), x.load(3)]
        y.store(0, shuffle(parts, (1, 0)), 2)

    text = printed(body)
    assert "int32_t _ptr[1];" in text
    assert "arg1_ptr[0] = arg0_ptr[3];" in text
    assert "arg1_ptr[1] = ((uint8_t)_ptr[0]);" in text


def test_arithmetic_on_vectors_is_refused() -> None:
    def body(x: Flat, y: Flat) -> None:
        y.store(0, x.load(0, 4) + x.load(4, 4), 4)

    with pytest.raises(Exception, match="C has no vectors, in which a kernel computes"):
        printed(body)


def test_lanes_that_are_not_there_are_refused() -> None:
    from qpc.backends.tvm.codegen.c_scalars import _Lane

    value = tvm.tirx.Shuffle([T.IntImm("int32", 1), T.IntImm("int32", 2)], [T.IntImm("int32", 2)])
    with pytest.raises(BackendError, match="a kernel takes a lane that its vectors do not have"):
        _Lane(0).of(value)

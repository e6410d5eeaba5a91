"""Relax functions as steps on memory: views are free, and what is no kernel call is refused."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("tvm_ffi", reason="Apache TVM is not installed")
import numpy as np
from tvm import relax
from tvm.tirx.script import builder as T

from qpc.backends.tvm.codegen.schedule import Schedule, schedule
from qpc.backends.tvm.kernels.emit import prim_func
from qpc.backends.tvm.kernels.kernel import TensorType
from qpc.errors import BackendError

pytestmark = pytest.mark.tvm

SHAPE = (2, 8)
TENSOR = relax.TensorType(SHAPE, "float32")


def _function(emit: Any) -> relax.Function:
    builder = relax.BlockBuilder()
    x, w = relax.Var("x", TENSOR), relax.Var("w", TENSOR)
    with builder.function("run"):
        with builder.dataflow():
            result = builder.emit_output(emit(builder, x, w))
        builder.emit_func_output(result, params=[x, w])
    return builder.get()["run"]


def _read(emit: Any) -> Schedule:
    return schedule(_function(emit), 1, lambda constant: 7)


def _double(builder: Any, *values: Any, made: Any = TENSOR) -> Any:
    """A call of a kernel; what it computes does not matter."""
    outputs = made if isinstance(made, list) else [made]
    types = [TensorType(SHAPE, "float32")] * (len(values) + len(outputs))
    kernel = builder.add_func(prim_func("double", types, lambda *buffers: T.evaluate(0)), "double")
    return builder.emit(relax.call_tir(kernel, list(values), made))


def test_a_call_reads_inputs_and_weights_and_makes_memory() -> None:
    found = _read(lambda b, x, w: _double(b, _double(b, x, w), w))
    first, second = found.steps
    assert [m.kind for m in first.inputs] == ["input", "weight"]
    assert second.inputs[0] is first.outputs[0]
    assert second.inputs[1] is first.inputs[1]
    assert found.results == [second.outputs[0]]
    assert second.outputs[0].size == 64


def test_a_reshape_is_the_same_memory() -> None:
    def emit(b: Any, x: Any, w: Any) -> Any:
        return b.emit(relax.op.reshape(_double(b, x), (4, 4)))

    found = _read(emit)
    assert len(found.steps) == 1
    assert found.results == [found.steps[0].outputs[0]]


def test_a_constant_is_one_more_weight() -> None:
    found = _read(lambda b, x, w: _double(b, relax.const(np.ones(SHAPE, np.float32))))
    (step,) = found.steps
    assert (step.inputs[0].kind, step.inputs[0].index) == ("weight", 7)


def test_a_kernel_may_have_several_outputs() -> None:
    def emit(b: Any, x: Any, w: Any) -> Any:
        both = _double(b, x, made=[TENSOR, TENSOR])
        return b.emit(relax.TupleGetItem(both, 1))

    found = _read(emit)
    (step,) = found.steps
    assert found.results == [step.outputs[1]]


def test_what_is_no_kernel_call_is_refused() -> None:
    with pytest.raises(BackendError, match=r"cannot schedule a call of relax\.add"):
        _read(lambda b, x, w: b.emit(relax.op.add(x, w)))

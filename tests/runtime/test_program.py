"""What a program does around its code; that it computes the right values, other tests say."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("tvm_ffi", reason="Apache TVM is not installed")
import torch

from qpc.backends import tvm
from qpc.errors import BackendError
from tests.generators import IntegerGraph
from tests.robustness.small_models import SHAPE, small_model

pytestmark = pytest.mark.tvm


def test_a_kernel_that_fails_is_an_error_and_the_next_call_is_new() -> None:
    model = small_model()
    assert model._program is not None
    call, x = model._program._calls[1], torch.zeros(1, *SHAPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(call, "_run", lambda table: -1)
        with pytest.raises(BackendError, match="a kernel failed"):
            model(x)
    assert len(model(x)) == 2


@pytest.mark.parametrize(
    "inputs",
    [
        [[0.0]],
        [np.zeros((1, *SHAPE))],
        [np.zeros((1, *SHAPE), np.float32)[..., ::-1]],
        [np.zeros((1, *SHAPE), ">f4")],
        [np.zeros((1, *SHAPE), np.float32).view(np.recarray)],
        [np.zeros(4 * 432 + 1, np.uint8)[1:].view(np.float32).reshape(1, *SHAPE)],
    ],
    ids=["a list", "float64", "backwards", "big-endian", "a subclass", "odd addresses"],
)
def test_arrays_that_cannot_be_read_as_they_are_are_left_to_others(inputs: list[object]) -> None:
    model = small_model()
    assert model._program is not None
    assert model._program.run_arrays(inputs) is None


def test_where_numpy_would_see_bits_tensors_are_used() -> None:
    g = IntegerGraph()
    gm = g.module(g.call(torch.ops.aten.relu.default, g.input(4)))
    program = tvm.compile_graph(gm)._program
    assert program is not None
    assert program.run_arrays([np.ones((1, 4), np.float32)]) is not None
    program._numpy_knows_all = False
    assert program.run_arrays([np.ones((1, 4), np.float32)]) is None

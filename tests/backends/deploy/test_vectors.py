from __future__ import annotations

import numpy as np
import pytest
import torch

from qpc.backends.deploy.vectors import input_ports, make_cases, output_ports, tensor_array
from qpc.calls import aten
from qpc.errors import BackendError
from qpc.types import TensorType
from tests.generators import IntegerGraph


def test_inputs_reach_both_ends_of_their_grid() -> None:
    g = IntegerGraph()
    q = g.quantize(g.input(64), scale=0.5, zero_point=100)
    (case,) = make_cases(g.module(q), 1, 1)
    quantized = np.frombuffer(case.outputs[0], np.uint8)
    assert (quantized.min(), quantized.max()) == (0, 255)
    values = np.frombuffer(case.inputs[0], np.float32)
    assert values.min() < -50 or values.max() > 77.5


def test_a_float_input_has_the_grid_that_it_is_rounded_to() -> None:
    g = IntegerGraph()
    x = g.input(4)
    (port,) = input_ports(g.module(g.quantize(x, scale=0.5, zero_point=3)), 1)
    assert (port.scale, port.zero_point, port.shape) == (0.5, 3, (1, 4))
    g = IntegerGraph()
    x = g.input(4)
    both = g.module(g.quantize(x, scale=0.5), g.quantize(x, scale=0.25))
    assert input_ports(both, 1)[0].scale is None


def test_expected_outputs_are_those_of_the_graph() -> None:
    g = IntegerGraph()
    gm = g.module(g.linear(g.image(8), 4))
    for case in make_cases(gm, 2, 3):
        x = torch.from_numpy(np.frombuffer(case.inputs[0], np.uint8).reshape(2, 8).copy())
        assert case.outputs == (gm(x).numpy().tobytes(),)


def test_equal_calls_give_equal_vectors() -> None:
    g = IntegerGraph()
    gm = g.module(g.linear(g.image(8), 4))
    assert make_cases(gm, 1, 2) == make_cases(gm, 1, 2)


def test_only_outputs_behind_float_operators_have_a_bound() -> None:
    g = IntegerGraph()
    exact = g.dequantize(g.linear(g.image(8), 4), scale=0.5, zero_point=9)
    gm = g.module(exact, g.call(aten._softmax.default, exact, 1, False))
    kinds = [TensorType((1, 4), torch.float32)] * 2
    first, second = output_ports(gm, kinds, make_cases(gm, 1, 1))
    assert (first.scale, first.zero_point, first.tolerance) == (0.5, 9, None)
    assert second.tolerance is not None
    assert second.tolerance <= 1e-3


def test_floats_of_sixteen_bits_are_kept_as_bits() -> None:
    assert tensor_array(torch.tensor([1.0], dtype=torch.bfloat16)).tolist() == [0x3F80]


def test_what_c_has_no_type_for_is_refused() -> None:
    g = IntegerGraph()
    gm = g.module(g.input(4, dtype=torch.complex64))
    with pytest.raises(BackendError, match="a library cannot take or give complex64"):
        input_ports(gm, 1)

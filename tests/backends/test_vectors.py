from __future__ import annotations

import numpy as np
import torch

from qpc.backends.compiled import signature_of
from qpc.backends.vectors import array_of, grid_of_input, make_vectors, random_inputs
from qpc.calls import aten
from qpc.runtime.arrays import ArrayType
from qpc.runtime.vectors import inputs_of
from tests.generators import IntegerGraph


def test_expected_outputs_are_those_of_the_graph() -> None:
    g = IntegerGraph()
    exact = g.dequantize(g.linear(g.quantize(g.input(8)), 4))
    gm = g.module(exact, g.call(aten._softmax.default, exact, 1, False))
    (vector,) = make_vectors(gm, signature_of(gm, (3, 2)))
    assert vector.batch == 2
    (x,) = inputs_of(vector, [ArrayType((2, 8), "float32")])
    outputs = [y.numpy() for y in gm(torch.from_numpy(x))]
    assert all(e.agrees(y) for e, y in zip(vector.outputs, outputs, strict=True))
    assert [e.sha256 is not None for e in vector.outputs] == [True, False]


def test_inputs_reach_beyond_both_ends_of_their_grid() -> None:
    g = IntegerGraph()
    gm = g.module(g.quantize(g.input(4000), scale=0.5, zero_point=100))
    (x,) = random_inputs(gm, signature_of(gm, (1,)).inputs[1], 0)
    assert x.min() < -50
    assert x.max() > 77.5


def test_an_input_has_a_grid_if_all_of_its_readers_agree() -> None:
    for scales, expected in (((0.5, 0.5), (0.5, 0)), ((0.5, 0.25), None)):
        g = IntegerGraph()
        x = g.input(4)
        gm = g.module(*(g.quantize(x, scale=s, zero_point=0) for s in scales))
        assert grid_of_input(next(iter(gm.graph.nodes))) == expected


def test_a_graph_that_cannot_run_on_random_inputs_has_no_vector() -> None:
    g = IntegerGraph()
    table = g.constant(torch.zeros(1, 3))
    gm = g.module(g.call(aten.embedding.default, table, g.input(50, dtype=torch.int64)))
    assert make_vectors(gm, signature_of(gm, (1,))) == ()


def test_bits_stand_for_numbers_that_numpy_does_not_have() -> None:
    assert array_of(torch.tensor([1.0], dtype=torch.bfloat16)).tolist() == [0x3F80]
    assert array_of(torch.tensor([1.0], dtype=torch.float16)).dtype == np.float16

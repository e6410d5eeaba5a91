"""What models compute is tested next to their export, in test_qdq.py."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from qpc.bench.torch_peer import FloatModel
from qpc.errors import UnsupportedOpError
from qpc.exporting.onnx.model import to_qdq
from tests.quantizing import Parts, fake_quantized, integer

helper = pytest.importorskip("onnx.helper")


def test_constants_are_computed_once() -> None:
    model = Parts(lambda m, x: m.linear(x), linear=nn.Linear(6, 3))
    network = FloatModel(to_qdq(integer(fake_quantized(model, torch.randn(5, 6)))))
    floats = [tuple(c.shape) for c in network.constants.values() if c.is_floating_point()]
    assert (3, 6) in floats  # the weight behind its DequantizeLinear


def test_an_operator_that_it_does_not_know_is_refused() -> None:
    ports = [helper.make_tensor_value_info(name, 1, [2]) for name in "xy"]
    node = helper.make_node("Sinh", ["x"], ["y"])
    model = helper.make_model(helper.make_graph([node], "g", ports[:1], ports[1:]))
    with pytest.raises(UnsupportedOpError, match="no PyTorch form for the ONNX operator Sinh"):
        FloatModel(model)


def test_an_end_of_a_clip_may_be_missing() -> None:
    ports = [helper.make_tensor_value_info(name, 1, [3]) for name in "xy"]
    hi = helper.make_tensor("hi", 1, [], [1.0])
    node = helper.make_node("Clip", ["x", "", "hi"], ["y"])
    model = helper.make_model(helper.make_graph([node], "g", ports[:1], ports[1:], [hi]))
    (found,) = FloatModel(model)(np.array([-2.0, 0.5, 3.0], np.float32))
    assert found.tolist() == [-2.0, 0.5, 1.0]

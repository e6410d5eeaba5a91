from __future__ import annotations

from pathlib import Path

import pytest
import torch

import qpc
from qpc.importers.onnx.folding import folded
from qpc.importers.onnx.module import OnnxModule
from tests.importers.models import model_of, node, saved

onnx = pytest.importorskip("onnx")
np = pytest.importorskip("numpy")

# PyTorch's exporter writes a padding by 2 and 1 so: pairs by axis, the last one first, turned.
TURNED = [
    node("ConstantOfShape", "more", to="zeros", value=onnx.numpy_helper.from_array(np.array([0]))),
    node("Concat", "pads", "zeros", to="all", axis=0),
    node("Reshape", "all", "pairs", to="rows"),
    node("Slice", "rows", "last", "least", "first", "last", to="turned"),
    node("Transpose", "turned", to="columns", perm=[1, 0]),
    node("Reshape", "columns", "last", to="flat"),
    node("Cast", "flat", to="whole"),
    node("Pad", "x", "whole"),
]
TURNED[6].attribute.append(onnx.helper.make_attribute("to", onnx.TensorProto.INT64))
NUMBERS = {
    "pads": np.array([2, 1]),
    "more": np.array([2]),
    "pairs": np.array([-1, 2]),
    "last": np.array([-1]),
    "least": np.array([-(2**63) + 1]),
    "first": np.array([0]),
}


def test_sizes_of_a_padding_are_known_before_the_model_is_traced(tmp_path: Path) -> None:
    module = OnnxModule(model_of(*TURNED, **NUMBERS), 17)
    assert [call.kind for call in module.calls] == ["Pad"]
    gm = qpc.trace_onnx(saved(tmp_path, *TURNED, **NUMBERS), torch.zeros(2, 4))
    x = torch.arange(8.0).reshape(2, 4)
    assert torch.equal(gm(x), torch.nn.functional.pad(x, (2, 1)))


@pytest.mark.parametrize("sizes", [[10**6, 10**6], [-1]])
def test_what_would_be_large_or_fails_is_left_to_whoever_runs_it(sizes: list[int]) -> None:
    zero = onnx.numpy_helper.from_array(np.array([0]))
    made = node("ConstantOfShape", "shape", to="z", value=zero)
    model = model_of(made, node("Add", "x", "z"), shape=np.array(sizes))
    calls = OnnxModule(model_of(node("Relu", "x")), 17).calls
    assert [*folded(calls, {"shape": np.array(sizes)})] == list(calls), "x is no constant"
    assert [call.kind for call in OnnxModule(model, 17).calls] == ["ConstantOfShape", "Add"]


def test_infinities_are_no_weights(tmp_path: Path) -> None:
    file = saved(tmp_path, node("Max", "x", "least"), least=np.float32(-np.inf))
    gm = qpc.trace_onnx(file, torch.zeros(2, 4))
    assert not list(gm.parameters())
    assert torch.equal(gm(torch.ones(2, 4)), torch.ones(2, 4))


def test_sizes_that_are_joined_with_narrow_constants_stay_numbers(tmp_path: Path) -> None:
    """Whole numbers of 32 bits are tensors elsewhere."""
    nodes = [
        node("Shape", "x", to="s"),
        node("Slice", "s", "zero", "one", to="batch"),
        node("Concat", "batch", "four", to="wanted", axis=0),
        node("Cast", "wanted", to="long"),
        node("Reshape", "x", "long"),
    ]
    nodes[3].attribute.append(onnx.helper.make_attribute("to", onnx.TensorProto.INT64))
    stored = {"zero": np.array([0]), "one": np.array([1]), "four": np.array([2, 2], np.int32)}
    gm = qpc.trace_onnx(saved(tmp_path, *nodes, rank=3, **stored), torch.zeros(2, 4))
    assert gm(torch.zeros(3, 4)).shape == (3, 2, 2)

"""Which inputs an ONNX model takes, and what is no such file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import qpc
from qpc.errors import ArtifactError, UnsupportedOpError
from tests.importers.models import model_of, node, saved

onnx = pytest.importorskip("onnx")
X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


def relu(folder: Path, change: Any = None) -> Path:
    """A model of one ReLU, with something changed."""
    model = model_of(node("Relu", "x"))
    if change is not None:
        change(model.graph)
    file = folder / "net.onnx"
    file.write_bytes(model.SerializeToString())
    return file


def refused(file: Path, example: Any = None) -> str:
    with pytest.raises((ArtifactError, UnsupportedOpError)) as caught:
        qpc.trace_onnx(file, example)
    assert caught.value.fix
    return str(caught.value)


def of_type(name: str) -> Any:
    def change(graph: Any) -> None:
        for value in (*graph.input, *graph.output):
            value.type.tensor_type.elem_type = getattr(onnx.TensorProto, name)

    return change


def without_shapes(graph: Any) -> None:
    for value in (*graph.input, *graph.output):
        value.type.tensor_type.ClearField("shape")


@pytest.mark.parametrize("example", [X, [X], {"x": X}])
def test_examples_are_one_tensor_or_several_in_order_or_by_name(
    tmp_path: Path, example: Any
) -> None:
    gm = qpc.trace_onnx(relu(tmp_path), example)
    assert torch.equal(gm(x=X), X.relu())


@pytest.mark.parametrize(
    ("example", "text"),
    [
        ([X, X], "net.onnx takes 1 input(s), 'x', got 2"),
        (X.long(), "net.onnx: the input 'x' is float32, got int64"),
        (X.numpy(), "net.onnx: example inputs are ndarray, not tensors"),
        ([X.tolist()], "net.onnx: the input 'x' is float32, got list"),
        ({"y": X}, "net.onnx takes 'x', got 'y'"),
    ],
)
def test_examples_that_do_not_fit_are_told_of_before_anything_runs(
    tmp_path: Path, example: Any, text: str
) -> None:
    assert text in refused(relu(tmp_path), example)


def test_examples_of_half_floats_are_made_up_and_of_integers_are_not(tmp_path: Path) -> None:
    gm = qpc.trace_onnx(relu(tmp_path, of_type("FLOAT16")))
    assert torch.equal(gm(X), X.relu())
    text = refused(relu(tmp_path, of_type("INT64")))
    assert "no example is made up for its input 'x', which is no float" in text


def test_a_shape_that_is_missing_is_that_of_the_example(tmp_path: Path) -> None:
    file = relu(tmp_path, without_shapes)
    assert "of which size its input 'x' is, nor of how many axes" in refused(file)
    made: Tensor = qpc.trace_onnx(file, X)(X)
    assert torch.equal(made, X.relu())


def test_types_and_attributes_that_are_not_read_are_told_of_the_file(tmp_path: Path) -> None:
    blocks = node("DequantizeLinear", "x", "s", axis=0, block_size=2)
    file = saved(tmp_path, blocks, opset=21, s=np.ones((2, 4), np.float32))
    assert "net.onnx: DequantizeLinear of opset 21 at 'node 0': block_size=2" in refused(file, X)
    zero = onnx.helper.make_tensor("z", onnx.TensorProto.FLOAT8E4M3FN, [], [0.0])
    model = model_of(node("QuantizeLinear", "x", "s", "z"), opset=21, s=np.float32(1.0))
    model.graph.initializer.append(zero)
    model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT8E4M3FN
    file.write_bytes(model.SerializeToString())
    assert "net.onnx: the constant 'z' is float8_e4m3fn, which is not read" in refused(file)


def test_a_model_in_memory_is_to_be_saved(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="trace_onnx reads a file, got ModelProto") as caught:
        qpc.trace_onnx(model_of(node("Relu", "x")))
    assert caught.value.fix == "onnx.save_model(model, path), and pass the path"

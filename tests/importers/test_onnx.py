"""ONNX models become graphs, our own ones with the same integers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import qpc
from qpc.errors import ArtifactError, UnsupportedOpError
from tests.exporting.nets import Residual, images

onnx = pytest.importorskip("onnx")


def saved(folder: Path, *nodes: Any, sizes: Any = ("n", 4), opset: int = 17, **stored: Any) -> Path:
    helper, float32 = onnx.helper, onnx.TensorProto.FLOAT
    ends = [
        helper.make_tensor_value_info(n, float32, s) for n, s in (("x", sizes), ("y", ["n", "k"]))
    ]
    constants = [onnx.numpy_helper.from_array(v, n) for n, v in stored.items()]
    graph = helper.make_graph(list(nodes), "g", ends[:1], ends[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    file = folder / "net.onnx"
    file.write_bytes(model.SerializeToString())
    return file


def node(kind: str, *inputs: str, to: str = "y", **attributes: Any) -> Any:
    return onnx.helper.make_node(kind, inputs, [to], **attributes)


def refused(file: Path) -> str:
    with pytest.raises((ArtifactError, UnsupportedOpError)) as caught:
        qpc.trace_onnx(file)
    return str(caught.value)


def test_our_own_models_come_back(tmp_path: Path) -> None:
    torch.manual_seed(0)
    gm = qpc.trace(Residual(), images())
    integers = qpc.quantize(gm, [images()], effort="fast")
    qpc.export(gm, tmp_path / "float.onnx", form="onnx-float")
    qpc.export(integers, tmp_path / "qdq.onnx")
    again = qpc.trace_onnx(tmp_path / "float.onnx")
    assert torch.allclose(again(images(7)), gm(images(7)), atol=1e-5)
    back = qpc.import_quantized(qpc.trace_onnx(tmp_path / "qdq.onnx"))
    assert torch.equal(back(images(7)), integers(images(7)))


def test_arithmetic_on_shapes_is_folded_and_the_batch_stays_open(tmp_path: Path) -> None:
    np = pytest.importorskip("numpy")
    file = saved(
        tmp_path,
        node("Shape", "x", to="shape"),
        node("Gather", "shape", "zero", to="n"),
        node("Unsqueeze", "n", "axis", to="one"),
        node("Concat", "one", "rest", to="wanted", axis=0),
        node("Reshape", "x", "wanted"),
        zero=np.array(0),
        axis=np.array([0]),
        rest=np.array([2, 2]),
    )
    gm = qpc.trace_onnx(file)
    x = torch.randn(5, 4)
    assert torch.equal(gm(x), x.reshape(5, 2, 2))


def test_unknown_operators_are_named_with_the_opset(tmp_path: Path) -> None:
    file = saved(tmp_path, node("Sin", "x", to="a"), node("Cos", "a"))
    assert "net.onnx (opset 17) calls Cos, Sin, which QPC does not read" in refused(file)


def test_files_that_are_no_models_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "net.onnx"
    file.write_bytes(b"\xff\xff\xff")
    assert "net.onnx is no ONNX model" in refused(file)
    file.write_bytes(b"")
    assert "net.onnx" in refused(file)
    assert "is of opset 6" in refused(saved(tmp_path, node("Relu", "x"), opset=6))
    assert "does not say of which size" in refused(
        saved(tmp_path, node("Relu", "x"), sizes=("n", "m"))
    )


def test_weights_in_other_files_are_not_read(tmp_path: Path) -> None:
    np = pytest.importorskip("numpy")
    file = saved(tmp_path, node("Add", "x", "w"), w=np.zeros(4, np.float32))
    model = onnx.load(file)
    tensor = model.graph.initializer[0]
    onnx.external_data_helper.set_external_data(tensor, "../secret")
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    file.write_bytes(model.SerializeToString())
    assert "has its weights in other files, such as 'w'" in refused(file)


def test_what_cannot_be_computed_names_its_node(tmp_path: Path) -> None:
    np = pytest.importorskip("numpy")
    file = saved(tmp_path, node("MatMul", "x", "w"), w=np.zeros((3, 2), np.float32))
    assert "MatMul at 'node 0' cannot be computed" in refused(file)

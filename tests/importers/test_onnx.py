"""ONNX models become graphs, our own ones with the same integers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import qpc
from qpc.errors import ArtifactError, UnsupportedOpError
from qpc.meta import info
from qpc.quant.config import LayerConfig, Override, QuantConfig
from tests.exporting.nets import Mixed, Residual, images, ran
from tests.importers.models import node, saved

onnx = pytest.importorskip("onnx")


def refused(file: Path) -> str:
    with pytest.raises((ArtifactError, UnsupportedOpError)) as caught:
        qpc.trace_onnx(file)
    return str(caught.value)


def test_our_own_models_come_back_as_the_same_graphs(tmp_path: Path) -> None:
    torch.manual_seed(0)
    gm = qpc.trace(Residual(), images())
    # In QDQ form a layer that joined an addition would be rounded before it.
    config = QuantConfig(overrides=(Override(module="block", use=LayerConfig(results="integer")),))
    integers = qpc.quantize(gm, [images()], config, effort="fast")
    qpc.export(gm, tmp_path / "float.onnx", form="onnx-float")
    qpc.export(integers, tmp_path / "qdq.onnx")
    assert qpc.fingerprint(qpc.trace_onnx(tmp_path / "float.onnx")) == qpc.fingerprint(gm)
    back = qpc.import_quantized(qpc.trace_onnx(tmp_path / "qdq.onnx"))
    assert torch.equal(back(images()), integers(images()))


@pytest.mark.thorough
def test_all_that_classifiers_consist_of_comes_back_with_equal_integers(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 3, 16, 16)
    gm = qpc.trace(Mixed(), x)
    integers = qpc.quantize(gm, [x], effort="fast")
    qpc.export(gm, tmp_path / "float.onnx", form="onnx-float")
    qpc.export(integers, tmp_path / "qdq.onnx")
    assert qpc.fingerprint(qpc.trace_onnx(tmp_path / "float.onnx")) == qpc.fingerprint(gm)
    back = qpc.import_quantized(qpc.trace_onnx(tmp_path / "qdq.onnx"))
    assert torch.equal(back(x), integers(x))


def test_names_of_nodes_become_paths_and_those_of_tensors_names(tmp_path: Path) -> None:
    nodes = (
        node("Relu", "x", to="/a/Relu_output_0", name="/a/a.0/act/Relu"),
        node("Tanh", "/a/Relu_output_0", to="2nd", name="scope/inner/Tanh"),
        node("Neg", "2nd"),
    )
    gm = qpc.trace_onnx(saved(tmp_path, *nodes))
    named = {n.name: info(n).module_path for n in gm.graph.nodes if n.op == "call_function"}
    assert named == {"_a_Relu_output_0": "a.0.act", "_2nd": "scope.inner", "y": ""}
    assert [n.name for n in gm.graph.find_nodes(op="placeholder")] == ["x"]
    assert not [name for name, _ in gm.named_modules() if "onnx" in name]


@pytest.mark.every(2)
@pytest.mark.parametrize("form", ["QDQ", "QOperator"])
def test_what_onnx_runtime_has_quantized_is_not_quantized_again(tmp_path: Path, form: str) -> None:
    tools = pytest.importorskip("onnxruntime.quantization")
    torch.manual_seed(0)
    gm = qpc.trace(Residual(), images())
    qpc.export(gm, tmp_path / "float.onnx", form="onnx-float", batch=4)

    class Reader(tools.CalibrationDataReader):  # type: ignore[name-defined, misc]  # it has no types
        def __init__(self) -> None:
            self.left = [{"x": images().numpy()}]

        def get_next(self) -> object:
            return self.left.pop() if self.left else None

    made = tmp_path / "quantized.onnx"
    tools.quantize_static(
        tmp_path / "float.onnx", made, Reader(), quant_format=tools.QuantFormat[form],
        per_channel=True, activation_type=tools.QuantType.QUInt8, weight_type=tools.QuantType.QInt8,
    )  # fmt: skip
    theirs = onnx.load(made)
    (expected,) = ran(theirs, images())
    integers = qpc.import_quantized(qpc.trace_onnx(made), [images()])
    weights = {v.numpy().tobytes() for v in integers.buffers() if v.dtype is torch.int8}
    stored = [onnx.numpy_helper.to_array(t) for t in theirs.graph.initializer]
    convolutions = [t for t in stored if t.dtype.name == "int8" and t.ndim == 4]
    assert convolutions
    assert {t.tobytes() for t in convolutions} <= weights
    off = (integers(images()) - expected).abs().max() / expected.abs().max()
    assert off < 0.05  # what rounding the last layer's results makes of one step


def test_clips_between_grids_narrow_them(tmp_path: Path) -> None:
    np = pytest.importorskip("numpy")
    scale, zero = np.float32(0.1), np.uint8(3)
    weights = np.array([[1, -7, 3], [7, 0, -2]], np.int8)
    nodes = [
        node("QuantizeLinear", "x", "scale", "zero", to="q"),
        node("Clip", "q", "low", "high", to="c"),
        node("DequantizeLinear", "c", "scale", "zero", to="d"),
        node("DequantizeLinear", "w", "scales", "zeros", to="weight", axis=0),
        node("Gemm", "d", "weight", transB=1),
    ]
    stored = {"scale": scale, "zero": zero, "low": np.uint8(0), "high": np.uint8(15), "w": weights}
    stored |= {"scales": np.array([0.2, 0.3], np.float32), "zeros": np.zeros(2, np.int8)}
    file = saved(tmp_path, *nodes, sizes=("n", 3), **stored)
    integers = qpc.import_quantized(qpc.trace_onnx(file))
    found = (info(n).qparams for n in integers.graph.nodes)
    (grid,) = {grid for grid in found if grid is not None}
    assert (grid.lo, grid.hi, grid.zero_point) == (0, 15, 3)
    x = torch.linspace(-2, 2, 12).reshape(4, 3)
    (expected,) = ran(onnx.load(file), x)
    torch.testing.assert_close(integers(x), expected, rtol=1e-5, atol=1e-5)


def test_grids_without_a_zero_point_are_of_unsigned_bytes_from_zero(tmp_path: Path) -> None:
    np = pytest.importorskip("numpy")
    nodes = [
        node("QuantizeLinear", "x", "scale", to="q"),
        node("DequantizeLinear", "q", "scale", to="d"),
        node("Relu", "d"),
    ]
    file = saved(tmp_path, *nodes, scale=np.float32(0.5))
    x = torch.tensor([[-1.0, 0.3, 7.0, 500.0]])
    assert qpc.trace_onnx(file)(x).tolist() == [[0.0, 0.5, 7.0, 127.5]]
    assert ran(onnx.load(file), x)[0].tolist() == [[0.0, 0.5, 7.0, 127.5]]


def test_a_value_of_our_own_models_is_called_as_before_it_was_rounded(tmp_path: Path) -> None:
    gm = qpc.trace(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)), torch.ones(2, 4))
    integers = qpc.quantize(gm, [torch.randn(8, 4)], effort="fast")
    qpc.export(integers, tmp_path / "net.onnx")
    back = qpc.trace_onnx(tmp_path / "net.onnx")
    calls = [n for n in back.graph.nodes if n.op == "call_function"]
    named = [n.name for n in calls if "channel" not in str(n.target)]  # which are of weights
    rounded = [
        ("quantize_default_QuantizeLinear", "quantize_default"),
        ("relu_QuantizeLinear", "relu_"),
    ]
    assert named == [*rounded[0], "relu", *rounded[1], "linear_1"]


def test_values_of_unlikely_sizes_are_refused_before_they_are_made(tmp_path: Path) -> None:
    np = pytest.importorskip("numpy")
    huge = np.array([1 << 20, 1 << 20, 4])
    expanded = saved(tmp_path, node("Expand", "x", "huge"), sizes=(1, 4), huge=huge)
    assert "makes a value of 4398046511104 elements" in refused(expanded)
    row = saved(tmp_path, node("ConstantOfShape", "n", to="a"), node("Add", "x", "a"), n=huge[:1])
    assert "makes a value of" in refused(row) or "cannot be computed" in refused(row)
    count = onnx.numpy_helper.from_array(np.array([1]))
    whole = node("ConstantOfShape", "n", to="a", value=count)
    file = saved(tmp_path, whole, node("Reshape", "x", "a"), n=huge[:1])
    assert "it would make 1048576 numbers" in refused(file)


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
    file = saved(tmp_path, node("Det", "x", to="a"), node("Bernoulli", "a"))
    assert "net.onnx (opset 17) calls Bernoulli, Det, which QPC does not read" in refused(file)


def test_files_that_are_no_models_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "net.onnx"
    file.write_bytes(b"\xff\xff\xff")
    assert "net.onnx is no ONNX model" in refused(file)
    file.write_bytes(b"")
    assert "net.onnx" in refused(file)
    assert "is of opset 5" in refused(saved(tmp_path, node("Relu", "x"), opset=5))
    assert "does not say of which size" in refused(
        saved(tmp_path, node("Relu", "x"), sizes=("n", "m"))
    )


@pytest.mark.parametrize("size", [-1, 1 << 40])
def test_inputs_of_unlikely_sizes_are_not_made_up(tmp_path: Path, size: int) -> None:
    file = saved(tmp_path, node("Relu", "x"), sizes=(2, size))
    assert "does not say of which size its input 'x' is: [2, " in refused(file)


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


def test_constants_in_other_files_are_not_read_either(tmp_path: Path) -> None:
    value = onnx.helper.make_tensor("v", onnx.TensorProto.FLOAT, [1], [0.0])
    value.ClearField("float_data")
    value.data_location = onnx.TensorProto.EXTERNAL
    value.external_data.add(key="location", value="/etc/hostname")
    constant = onnx.helper.make_node("Constant", [], ["c"], value=value)
    file = saved(tmp_path, constant, node("Add", "x", "c"))
    assert "has its weights in other files, such as 'v'" in refused(file)


def test_what_cannot_be_computed_names_its_node(tmp_path: Path) -> None:
    np = pytest.importorskip("numpy")
    file = saved(tmp_path, node("MatMul", "x", "w"), w=np.zeros((3, 2), np.float32))
    assert "MatMul at 'node 0' cannot be computed" in refused(file)

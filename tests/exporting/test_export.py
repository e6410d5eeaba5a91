from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.fx import GraphModule

import qpc
from qpc.errors import ArtifactError, BackendError, ConfigError, PassError, UnsupportedOpError
from qpc.exporting.encodings import read_encodings
from qpc.layers import integer_layer
from qpc.meta import attribute, info
from tests.exporting.nets import (
    Residual,
    images,
    integer_residual,
    kinds,
    ran,
    read,
    rounded_residual,
)
from tests.quantizing import min_max, observed
from tests.small_models import graph_of

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def gm() -> GraphModule:
    return integer_residual()


@pytest.mark.parametrize("form", ["onnx-qdq", "onnx-integer", "onnx-float"])
def test_a_file_is_written_that_takes_any_batch_size(
    form: str, gm: GraphModule, tmp_path: Path
) -> None:
    made = qpc.export(gm, tmp_path / "net.onnx", form=form)
    assert made.form == form
    assert made.files[0] == tmp_path / "net.onnx"
    model = onnx.load(made.files[0])
    for count in (1, 3):
        (found,) = ran(model, images(count))
        (expected,) = read(gm, images(count))
        assert found.shape == expected.shape
        if form == "onnx-integer":
            assert torch.equal(found, expected)
        # The float form leaves all roundings out, which are some steps of the grids.
        tolerance = 0.02 if form == "onnx-qdq" else 0.1
        assert (found - expected).abs().max() <= tolerance * expected.abs().max()


def test_encodings_lie_beside_the_float_model(gm: GraphModule, tmp_path: Path) -> None:
    made = qpc.export(gm, tmp_path / "net.onnx", form="onnx-float", encodings="0.6.1")
    assert [file.name for file in made.files] == ["net.onnx", "net.encodings"]
    written = json.loads(made.files[1].read_text())
    assert written["version"] == "0.6.1"
    model = onnx.load(made.files[0])
    tensors = {name for node in model.graph.node for name in node.output}
    tensors |= {i.name for i in model.graph.input}
    constants = {c.name for c in model.graph.initializer}
    assert written["activation_encodings"].keys() <= tensors
    assert sorted(written["param_encodings"]) == ["block.weight", "head.weight", "stem.weight"]
    assert written["param_encodings"].keys() <= constants
    assert next(grid.tensor for grid in made.grids if not grid.parameter) == "x"


def test_a_float_graph_has_no_encodings(tmp_path: Path) -> None:
    gm = qpc.trace(Residual(), images())
    made = qpc.export(gm, tmp_path / "net.onnx", form="onnx-float", opset=12)
    assert made.files == (tmp_path / "net.onnx",)
    (found,) = ran(onnx.load(made.files[0]), images())
    assert torch.allclose(found, read(gm, images())[0], atol=1e-5)


def test_tensorrt_gets_symmetric_grids_by_its_rules(tmp_path: Path) -> None:
    gm = integer_residual(min_max(symmetric=True))
    made = qpc.export(gm, tmp_path / "net.onnx", form="onnx-tensorrt")
    assert made.notes == ()
    model = onnx.load(made.files[0])
    assert {c.data_type for c in model.graph.initializer} <= {
        onnx.TensorProto.INT8,
        onnx.TensorProto.FLOAT,
        onnx.TensorProto.INT64,
    }
    (expected,) = read(gm, images())
    assert (ran(model, images())[0] - expected).abs().max() <= 0.02 * expected.abs().max()


def test_a_residual_sum_may_see_a_layer_before_it_is_rounded(tmp_path: Path) -> None:
    gm = integer_residual(min_max(symmetric=True))
    pairs = {}
    for fuse in (False, True):
        file = tmp_path / f"{fuse}.onnx"
        made = qpc.export(gm, file, form="onnx-tensorrt", fuse_residual_adds=fuse)
        assert made.notes == ()
        model = onnx.load(file)
        made_by = {name: node.op_type for node in model.graph.node for name in node.output}
        (total,) = (node for node in model.graph.node if node.op_type == "Add")
        pairs[fuse] = [made_by[name] for name in total.input]
    assert pairs == {
        False: ["DequantizeLinear", "DequantizeLinear"],
        True: ["DequantizeLinear", "Conv"],
    }


def test_layers_that_join_additions_are_told_of_until_there_is_data(tmp_path: Path) -> None:
    gm = qpc.quantize(qpc.trace(Residual(), images()), [images()])
    (note,) = qpc.export(gm, tmp_path / "net.onnx").notes
    assert note.startswith(
        "what 1 of its layers add to other values is rounded before, on wide grids"
    )
    made = qpc.export(gm, tmp_path / "net.onnx", batches=[images()])
    assert made.notes == ()
    (expected,) = read(gm, images())
    (found,) = ran(onnx.load(made.files[0]), images())
    assert (found - expected).abs().max() <= 0.05 * expected.abs().max()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"opset": 99}, "there is no opset 99: the newest that the installed onnx has is"),
        ({"opset": "17"}, "opset must be a whole number, at least 1, got '17'"),
        ({"batch": 0}, "batch must be at least 1, got 0"),
        ({"batch": 0, "form": "tflite"}, "batch must be at least 1, got 0"),
        ({"batch": True}, "batch must be a whole number"),
    ],
)
def test_numbers_that_cannot_be_are_refused(
    options: dict[str, Any], text: str, gm: GraphModule, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=text):
        qpc.export(gm, tmp_path / "net.onnx", **options)


def test_asymmetric_grids_are_not_for_tensorrt(gm: GraphModule, tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="TensorRT takes symmetric grids alone") as caught:
        qpc.export(gm, tmp_path / "net.onnx", form="onnx-tensorrt")
    assert "ActivationConfig(symmetric=True)" in str(caught.value.fix)


def test_what_has_no_note_of_its_own_is_told_of_tensorrts_rules(tmp_path: Path) -> None:
    """Weights of grouped transposed convolutions have scales that ONNX cannot say."""
    from torch import nn

    from tests.quantizing import Parts, fake_quantized, integer

    model = Parts(lambda m, x: m.conv(x), conv=nn.ConvTranspose2d(4, 4, 2, groups=2))
    x = torch.randn(2, 4, 5, 5)
    gm = integer(fake_quantized(model, x, config=min_max(symmetric=True)))
    made = qpc.export(gm, tmp_path / "net.onnx", form="onnx-tensorrt")
    (note,) = made.notes
    assert note.startswith("TensorRT may not take or fuse this: conv/ConvTranspose: input")


def test_graphs_in_between_are_to_be_converted_first(tmp_path: Path) -> None:
    with pytest.raises(BackendError, match="this one is in between") as caught:
        qpc.export(rounded_residual(), tmp_path / "net.onnx")
    assert caught.value.fix == "gm = qpc.convert(gm)"
    with pytest.raises(BackendError, match="this one is in between"):
        qpc.export(observed(Residual(), images()), tmp_path / "net.onnx")


def test_all_operators_without_a_form_are_named_in_one_error(tmp_path: Path) -> None:
    aten = torch.ops.aten

    def build(g: torch.fx.Graph, x: torch.fx.Node) -> Any:
        x = g.call_function(aten.sinc.default, (x,))
        return g.call_function(aten.i0.default, (g.call_function(aten.relu.default, (x,)),))

    with pytest.raises(UnsupportedOpError, match="2 operators have no ONNX form") as caught:
        qpc.export(graph_of(build, 4), tmp_path / "net.onnx")
    assert "aten.sinc.default, at sinc_default" in caught.value.what
    assert "aten.i0.default, at i0_default" in caught.value.what
    assert not (tmp_path / "net.onnx").exists()


def test_forms_and_options_that_there_are_not(gm: GraphModule, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"form must be 'onnx-qdq', .*, got 'caffe'"):
        qpc.export(gm, tmp_path / "net", form="caffe")
    with pytest.raises(ConfigError, match="'onnx-qdq' has no option 'encodings'") as caught:
        qpc.export(gm, tmp_path / "net", encodings="1.0.0")
    assert caught.value.fix == "leave it out; it has: batch, batches, opset"
    with pytest.raises(ConfigError, match="needs opset 13 or newer, not 12"):
        qpc.export(gm, tmp_path / "net", opset=12)
    with pytest.raises(ConfigError, match="batch must be at least 1"):
        qpc.export(gm, tmp_path / "net", batch=0)
    with pytest.raises(PassError, match="export needs a traced graph, got Residual"):
        qpc.export(Residual(), tmp_path / "net")  # type: ignore[arg-type]  # the slip that is meant


def test_results_that_nothing_rounds_are_floats_in_every_form(tmp_path: Path) -> None:
    gm = integer_residual(min_max(results="float32", symmetric=True))
    assert str(list(gm.graph.nodes)[-2].target) == "qpc.linear_float.default"
    (expected,) = read(gm, images())
    for form in ("onnx-integer", "onnx-qdq", "onnx-tensorrt"):
        made = qpc.export(gm, tmp_path / "net.onnx", form=form)
        model = onnx.load(made.files[0])
        (found,) = ran(model, images())
        if form == "onnx-integer":
            assert torch.equal(found, expected)
        else:
            assert kinds(model)[-1] == "Gemm"
            assert (found - expected).abs().max() <= 0.02 * expected.abs().max()


def test_a_tflite_file_is_written_of_rounded_results(gm: GraphModule, tmp_path: Path) -> None:
    pytest.importorskip("flatbuffers")
    made = qpc.export(gm, tmp_path / "net.tflite", form="tflite", ends="int8")
    assert made.files[0].read_bytes()[4:8] == b"TFL3"


def test_a_file_that_cannot_be_written(gm: GraphModule, tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"cannot write to .*net\.onnx.*No such file"):
        qpc.export(gm, tmp_path / "missing" / "net.onnx")


def test_a_fixed_batch_size_stands_in_the_file(gm: GraphModule, tmp_path: Path) -> None:
    qpc.export(gm, tmp_path / "net.onnx", batch=2)
    model = onnx.load(tmp_path / "net.onnx")
    (size, *_) = model.graph.input[0].type.tensor_type.shape.dim
    assert size.dim_value == 2
    assert "Shape" not in kinds(model)


@pytest.mark.parametrize("version", ["0.6.1", "1.0.0", "2.0.0"])
def test_float_model_and_encodings_hold_every_integer_of_the_graph(
    version: str, gm: GraphModule, tmp_path: Path
) -> None:
    """Weights, biases and grids come back from the files alone, to the last bit."""
    made = qpc.export(gm, tmp_path / "net.onnx", form="onnx-float", encodings=version)
    grids = {g.tensor: g for g in read_encodings(made.files[1].read_bytes())}
    model = onnx.load(made.files[0])
    constants = {
        c.name: torch.from_numpy(onnx.numpy_helper.to_array(c).copy())
        for c in model.graph.initializer
    }
    layers = [view for node in gm.graph.nodes if (view := integer_layer(node)) is not None]
    inputs = {"stem": "x", "block": "relu", "head": "mean"}
    assert len(layers) == 3
    for view in layers:
        name = info(view.node).module_path
        value, weight = grids[inputs[name]], grids[f"{name}.weight"]
        known = info(view.input).qparams
        assert known is not None
        assert (value.scales[0], value.zero_point) == (known.scale, known.zero_point)
        steps = torch.tensor(weight.scales, dtype=torch.float64)
        real = constants[f"{name}.weight"].double()
        integers = (real / steps.reshape(-1, *[1] * (real.dim() - 1))).round()
        assert torch.equal(integers.to(torch.int8), attribute(gm, str(view.weight.target)))
        bias = (constants[f"{name}.bias"].double() / (steps * value.scales[0])).round()
        assert torch.equal(bias.to(torch.int32), attribute(gm, str(view.bias.target)))

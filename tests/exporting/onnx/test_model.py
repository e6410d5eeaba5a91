from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import qpc
from qpc.bench.torch_peer import FloatModel
from qpc.errors import BackendError, ConfigError, MissingDependencyError, UnsupportedOpError
from qpc.exporting.onnx.form import OnnxForm
from qpc.exporting.onnx.model import to_qdq
from qpc.exporting.tensorrt import tensorrt_problems
from tests.exporting.nets import Mixed, as_onnx, images, integer_residual, kinds, ran, read
from tests.quantizing import Parts, fake_quantized, integer, min_max
from tests.small_models import graph_of

pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


def close(gm: torch.fx.GraphModule, x: Tensor) -> bool:
    """Whether the ONNX model gives what the graph gives, up to steps of the output's grid."""
    options = onnxruntime.SessionOptions()
    # Without it, sums saturate in int16 on CPUs that have no VNNI, which no tolerance covers.
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(to_qdq(gm, len(x)).SerializeToString(), options)
    (found,) = session.run(None, {"x": x.numpy()})
    expected = gm(x).detach().numpy()
    assert found.shape == expected.shape
    (in_float,) = FloatModel(to_qdq(gm, len(x)))(x.numpy())
    assert np.abs(in_float - expected).max() <= 0.1 * np.abs(expected).max()
    return bool(np.abs(found - expected).max() <= 0.03 * np.abs(expected).max())


def operators(gm: torch.fx.GraphModule, batch: int) -> set[str]:
    return set(kinds(to_qdq(gm, batch)))


def between_layers(function: Callable[[Tensor], Tensor]) -> nn.Module:
    layers = {"first": nn.Linear(6, 6), "last": nn.Linear(6, 4)}
    return Parts(lambda m, x: m.last(function(m.first(x))), **layers)


def test_the_model_computes_what_the_graph_computes() -> None:
    x = torch.randn(2, 3, 17, 17)
    assert close(integer(fake_quantized(Mixed(), x)), x)


@pytest.mark.parametrize(
    "function",
    [
        *(F.relu, F.gelu, F.elu, torch.tanh, torch.sigmoid, F.leaky_relu, F.softplus, F.mish),
        *(torch.exp, torch.abs, torch.neg, torch.erf),
        partial(F.leaky_relu, negative_slope=0.1),
    ],
    ids=lambda f: getattr(f, "__name__", "leaky_relu_0.1"),
)
def test_tables_become_the_functions_that_they_hold(function: Callable[[Tensor], Tensor]) -> None:
    x = torch.randn(5, 6)
    gm = integer(fake_quantized(between_layers(function), x))
    assert "Gather" not in operators(gm, 5)
    assert close(gm, x)


@pytest.mark.parametrize("symmetric", [False, True])
def test_tables_of_other_functions_stay_tables(symmetric: bool) -> None:
    x = torch.randn(5, 6)
    config = min_max(symmetric=symmetric) if symmetric else None
    model = between_layers(lambda x: torch.square(torch.sin(x)))
    gm = integer(fake_quantized(model, x, config=config))
    assert "Gather" in operators(gm, 5)
    assert close(gm, x)


IMAGE_FUNCTIONS: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    "reshape": ("Reshape", lambda x: x.reshape(-1, 3, 16, 9)),
    "permute": ("Transpose", lambda x: x.transpose(2, 3)),
    "slice": ("Slice", lambda x: x[:, 1:9:2]),
    "select": ("Gather", lambda x: x[:, :, -1]),
    "flip": ("Slice", lambda x: x.flip(1, 3)),
    "roll": ("Concat", lambda x: x.roll((1, -2), (2, 1))),
    "roll by a whole turn": ("Conv", lambda x: x.roll(6, 2)),
    "pixel_shuffle": ("DepthToSpace", lambda x: F.pixel_shuffle(x, 2)),
    "pixel_unshuffle": ("Transpose", lambda x: F.pixel_unshuffle(x, 3)),
    "channel_shuffle": ("Transpose", lambda x: F.channel_shuffle(x, 4)),
    "nearest": ("Resize", lambda x: F.interpolate(x, scale_factor=2, mode="nearest")),
    "bilinear": ("Resize", lambda x: F.interpolate(x, scale_factor=2, mode="bilinear")),
    "corners": ("Resize", lambda x: F.interpolate(x, (9, 4), mode="bilinear", align_corners=True)),
    "reflection": ("Gather", lambda x: F.pad(x, (1, 2, 2, 1), mode="reflect")),
    "difference": ("Sub", lambda x: x[:, :6] - x[:, 6:]),
    "clamp": ("Clip", lambda x: torch.cat([x.clamp(-0.5, 0.5), x], 1)),
    "sum": ("Mul", lambda x: x.sum((2, 3))),
    "average with a divisor": ("Mul", lambda x: F.avg_pool2d(x, 2, divisor_override=3)),
    "global maximum": ("MaxPool", lambda x: F.adaptive_max_pool2d(x, 1)),
}


@pytest.mark.parametrize("name", IMAGE_FUNCTIONS)
def test_functions_of_images(name: str) -> None:
    kind, function = IMAGE_FUNCTIONS[name]
    x = torch.randn(2, 3, 6, 6)
    model = Parts(lambda m, x: function(m.conv(x)).flatten(1), conv=nn.Conv2d(3, 12, 1))
    gm = integer(fake_quantized(model, x))
    assert kind in operators(gm, 2)
    assert close(gm, x)


def test_more_outputs_than_the_stride_are_cut_off_less() -> None:
    x = torch.randn(2, 2, 5, 4)
    for padding in (1, 0):
        conv = nn.ConvTranspose2d(2, 2, 3, 1, padding, output_padding=1, dilation=2)
        gm = integer(fake_quantized(Parts(lambda m, x: m.conv(x), conv=conv), x))
        if padding:
            assert close(gm, x)
            continue
        with pytest.raises(UnsupportedOpError, match="with so much output_padding"):
            to_qdq(gm)


@pytest.mark.parametrize("groups", [1, 3])
def test_transposed_convolutions(groups: int) -> None:
    conv = nn.ConvTranspose2d(6, 9, 3, 2, 1, output_padding=1, groups=groups, dilation=2)
    x = torch.randn(2, 6, 5, 4)
    gm = integer(fake_quantized(Parts(lambda m, x: m.conv(x), conv=conv), x))
    assert "ConvTranspose" in operators(gm, 2)
    assert close(gm, x)


def test_softmax_is_one_in_float() -> None:
    x = torch.randn(5, 6)
    model = Parts(lambda m, x: torch.softmax(m.linear(x), -1), linear=nn.Linear(6, 4))
    assert close(integer(fake_quantized(model, x)), x)


def test_what_stays_in_float_is_float_in_the_model() -> None:
    model = Parts(
        lambda m, x: F.relu(m.conv(m.norm(x))).mean((2, 3)),
        conv=nn.Conv2d(3, 4, 3, padding=1),  # its padding keeps the norm apart
        norm=nn.BatchNorm2d(3),
    )
    x = torch.randn(2, 3, 8, 8)
    gm = integer(fake_quantized(model.eval(), x))
    assert "BatchNormalization" in {node.op_type for node in to_qdq(gm, 2).graph.node}
    assert close(gm, x)


def test_zero_padding_becomes_part_of_the_convolution() -> None:
    model = Parts(lambda m, x: m.conv(F.pad(x, (0, 1, 0, 1))), conv=nn.Conv2d(3, 4, 3, stride=2))
    gm = integer(fake_quantized(model, torch.randn(1, 3, 8, 8)))
    nodes = {node.op_type: node for node in to_qdq(gm).graph.node}
    assert "Pad" not in nodes
    (pads,) = [a.ints for a in nodes["Conv"].attribute if a.name == "pads"]
    assert list(pads) == [0, 0, 1, 1]


def test_padding_that_others_read_stays() -> None:
    model = Parts(
        lambda m, x: F.max_pool2d(F.pad(m.conv(x), (1, 1, 2, 0)), 2), conv=nn.Conv2d(3, 4, 3)
    )
    x = torch.randn(1, 3, 9, 9)
    gm = integer(fake_quantized(model, x))
    assert "Pad" in {node.op_type for node in to_qdq(gm).graph.node}
    assert close(gm, x)


def test_a_sequence_goes_through_linear_layers_as_rows() -> None:
    model = Parts(lambda m, x: m.linear(x), linear=nn.Linear(6, 3))
    x = torch.randn(2, 5, 6)
    assert close(integer(fake_quantized(model, x)), x)


def test_an_operator_without_an_onnx_form_is_refused() -> None:
    gm = graph_of(lambda g, x: g.call_function(torch.ops.aten.sinc.default, (x,)), 4)
    with pytest.raises(UnsupportedOpError, match="no ONNX form for aten"):
        to_qdq(gm)


def test_an_interpolation_without_an_onnx_form_is_refused() -> None:
    model = Parts(
        lambda m, x: F.interpolate(m.conv(x), scale_factor=1.7, mode="bilinear"),
        conv=nn.Conv2d(3, 4, 1),
    )
    gm = integer(fake_quantized(model, torch.randn(1, 3, 6, 6)))
    with pytest.raises(UnsupportedOpError, match="no ONNX form for this interpolation"):
        to_qdq(gm)


def test_a_roll_over_all_axes_is_refused() -> None:
    gm = graph_of(lambda g, x: g.call_function(torch.ops.aten.roll.default, (x, [1])), 4)
    with pytest.raises(UnsupportedOpError, match="roll over all axes at once"):
        to_qdq(gm)


def test_a_pixel_shuffle_of_other_than_images_is_refused() -> None:
    target = torch.ops.aten.pixel_shuffle.default
    gm = graph_of(lambda g, x: g.call_function(target, (x, 2)), 3, 4, 2, 2)
    with pytest.raises(UnsupportedOpError, match="pixel_shuffle of not 4 axes"):
        to_qdq(gm)


def test_grids_of_fewer_bits_are_clamped_between_the_two_nodes() -> None:
    x = torch.randn(5, 6)
    layers = {"first": nn.Linear(6, 6), "last": nn.Linear(6, 3)}
    model = Parts(lambda m, x: m.last(F.relu(m.first(x))), **layers)
    gm = integer(fake_quantized(model, x, config=min_max(bits=5)))
    nodes = to_qdq(gm).graph.node
    around = {
        (before.op_type, after.op_type)
        for clip in nodes
        if clip.op_type == "Clip"
        for before in nodes
        for after in nodes
        if before.output[0] == clip.input[0] and clip.output[0] in after.input
    }
    assert around == {("QuantizeLinear", "DequantizeLinear")}
    assert close(gm, x)


def test_a_model_that_returns_integers_is_refused() -> None:
    target = torch.ops.qpc.quantize.default
    gm = graph_of(lambda g, x: g.call_function(target, (x, 0.5, 3, 0, 255, torch.uint8)), 4)
    with pytest.raises(BackendError, match="the grid of an integer value is not known"):
        to_qdq(gm)


def test_onnx_is_asked_for_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    gm = graph_of(lambda g, x: g.call_function(torch.ops.aten.relu.default, (x,)), 4)
    with pytest.raises(MissingDependencyError, match="onnx is not installed"):
        to_qdq(gm)


# --- what people find in a file -------------------------------------------------------------------


def test_names_are_those_of_the_users_model_and_lines_lead_there() -> None:
    model = as_onnx(integer_residual())
    (conv, *_) = (node for node in model.graph.node if node.op_type == "Conv")
    assert conv.name == "stem/Conv"
    assert re.fullmatch(r"nets\.py:\d+ in forward", conv.doc_string)
    about = {entry.key: entry.value for entry in conv.metadata_props}
    assert about == {
        "qpc.operator": "qpc.conv2d.default",
        "qpc.module": "stem",
        "qpc.value": "relu",
    }
    assert conv.input[1] == "stem.weight"
    tensors = {name for node in model.graph.node for name in node.output}
    assert {"relu", "conv2d_1", "relu_1", "mean", "linear"} <= tensors
    assert [output.name for output in model.graph.output] == ["linear"]


def test_a_file_says_what_it_was_made_from() -> None:
    gm = integer_residual()
    model = as_onnx(gm)
    about = {entry.key: entry.value for entry in model.metadata_props}
    assert (model.producer_name, about["qpc.form"]) == ("qpc", "qdq")
    assert about["qpc.fingerprint"] == qpc.fingerprint(gm)
    assert json.loads(about["qpc.signature"]) == {
        "inputs": [{"name": "x", "dtype": "float32", "shape": ["N", 3, 8, 8]}],
        "outputs": [{"name": "linear", "dtype": "float32", "shape": ["N", 5]}],
    }


def test_constants_and_nodes_that_nothing_reads_are_left_out() -> None:
    """Padding that a convolution does itself, and numbers of forms that were not taken."""
    conv = nn.Conv2d(3, 4, 3, stride=2)
    model = Parts(lambda m, x: m.conv(F.pad(x, (0, 1, 0, 1))), conv=conv)
    made = to_qdq(integer(fake_quantized(model, torch.randn(1, 3, 8, 8))))
    read = {name for node in made.graph.node for name in node.input}
    read |= {output.name for output in made.graph.output}
    assert {tensor.name for tensor in made.graph.initializer} <= read
    assert {name for node in made.graph.node for name in node.output} <= read


def test_newer_opsets_store_four_bits_as_such() -> None:
    import onnx

    gm = integer_residual(min_max(bits=4, weight_bits=4))
    types = {
        opset: {tensor.data_type for tensor in as_onnx(gm, opset=opset).graph.initializer}
        for opset in (17, 21)
    }
    narrow = {onnx.TensorProto.INT4, onnx.TensorProto.UINT4}
    assert not types[17] & narrow
    assert narrow <= types[21]
    (found,) = ran(as_onnx(gm, opset=21), images())
    (old,) = ran(as_onnx(gm, opset=17), images())
    assert torch.equal(found, old)


def test_narrow_grids_of_tensorrt_are_clamped_before_they_are_rounded() -> None:
    gm = integer_residual(min_max(bits=6, symmetric=True))
    model = as_onnx(gm, "tensorrt")
    assert tensorrt_problems(model) == []
    (expected,) = read(gm, images())
    assert (ran(model, images())[0] - expected).abs().max() <= 0.06 * expected.abs().max()


def test_a_value_that_is_returned_twice_is_there_twice() -> None:
    gm = graph_of(lambda g, x: (x, x, g.call_function(torch.ops.aten.relu.default, (x,))), 4)
    x = torch.randn(2, 4)
    found = ran(as_onnx(gm, "float"), x)
    assert [torch.equal(a, b) for a, b in zip(found, gm(x), strict=True)] == [True] * 3


def test_a_relu_at_the_end_of_a_grid_is_written_where_no_node_rounds() -> None:
    gm = integer_residual()
    assert "Relu" not in kinds(as_onnx(gm))
    assert kinds(as_onnx(gm, "float")).count("Relu") == 2


def test_a_relu6_is_a_clip_there() -> None:
    conv = nn.Conv2d(3, 4, 1)
    model = Parts(lambda m, x: F.relu6(m.conv(x) * 1.0).mean((2, 3)), conv=conv)
    nn.init.constant_(conv.weight, 4.0)
    gm = integer(fake_quantized(model, torch.randn(4, 3, 6, 6), random=False))
    (clip,) = (n for n in as_onnx(gm, "float").graph.node if n.op_type == "Clip")
    assert len([name for name in clip.input if name]) == 3


def test_options_that_do_not_fit_a_form() -> None:
    with pytest.raises(ConfigError, match="fuse_residual_adds is for TensorRT"):
        OnnxForm("qdq", fuse_residual_adds=True)
    with pytest.raises(ConfigError, match="'float' needs opset 12 or newer"):
        OnnxForm("float", opset=11)

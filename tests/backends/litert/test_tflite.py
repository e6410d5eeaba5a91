from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

import qpc
from qpc.backends.litert import to_tflite
from qpc.errors import ConfigError, MissingDependencyError, UnsupportedOpError
from tests.backends.litert.running import KERNELS, results, steps_off
from tests.exporting.nets import Mixed
from tests.quantizing import Parts, fake_quantized, integer, min_max

pytest.importorskip("ai_edge_litert")


@pytest.mark.every(6)
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("kernels", KERNELS)
def test_the_file_computes_what_the_graph_computes(kernels: str, signed: bool) -> None:
    torch.manual_seed(1)
    x = torch.randn(2, 3, 17, 17)
    gm = integer(fake_quantized(Mixed(), x, signed=signed))
    assert steps_off(gm, x, kernels=kernels) <= 3  # a step early on can grow


def test_kernels_that_round_like_the_graph_give_its_integers() -> None:
    x = torch.randn(1, 3, 16, 16)
    layers = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.ReLU6(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    )
    assert steps_off(integer(fake_quantized(layers, x)), x, kernels="xnnpack") == 0


def test_microcontrollers_run_the_same_file() -> None:
    runtime = pytest.importorskip("tflite_micro").runtime
    x = torch.randn(1, 3, 8, 8)
    layers = nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 4, 1)
    gm = integer(fake_quantized(nn.Sequential(*layers), x))
    interpreter = runtime.Interpreter.from_bytes(to_tflite(gm))
    interpreter.set_input(x.permute(0, 2, 3, 1).contiguous().numpy(), 0)
    interpreter.invoke()
    found = torch.from_numpy(interpreter.get_output(0)).permute(0, 3, 1, 2)
    (expected,) = results(to_tflite(gm), {"input_1": x.numpy()}, "reference")
    assert torch.equal(found, expected)


def test_inputs_and_outputs_may_be_integers() -> None:
    x = torch.randn(2, 3, 6, 6)
    gm = integer(fake_quantized(nn.Conv2d(3, 4, 1), x))
    first, last = (
        gm.graph.find_nodes(op="call_function", target=torch.ops.qpc.quantize.default)[0],
        gm.graph.find_nodes(op="output")[0].all_input_nodes[0],
    )
    points = torch.ops.qpc.quantize(x, *first.args[1:])
    given = (points.to(torch.int16) - 128).to(torch.int8).numpy()
    (found,) = results(to_tflite(gm, 2, "int8"), {"input_1": given}, "xnnpack")
    assert found.dtype is torch.int8
    scale, zero = last.args[1], last.args[2]
    real = (found.float() + 128 - float(zero)) * float(scale)
    assert torch.equal(real, gm(x))


def test_files_have_a_signature_and_say_how_images_lie() -> None:
    interpreter = pytest.importorskip("ai_edge_litert.interpreter")
    gm = integer(fake_quantized(nn.Conv2d(3, 4, 1), torch.randn(1, 3, 6, 6)))
    data = to_tflite(gm)
    runner = interpreter.Interpreter(model_content=data).get_signature_runner("serving_default")
    (name,) = runner.get_input_details()
    assert name == "input_1"
    assert tuple(runner.get_input_details()[name]["shape"]) == (1, 6, 6, 3)
    assert b'{"layouts": {"input_1": "NHWC", "' in data
    assert data[4:8] == b"TFL3"


def test_weights_are_those_of_the_graph() -> None:
    interpreter = pytest.importorskip("ai_edge_litert.interpreter")
    gm = integer(fake_quantized(nn.Conv2d(3, 4, 3), torch.randn(1, 3, 6, 6)))
    made = interpreter.Interpreter(model_content=to_tflite(gm))
    made.allocate_tensors()
    (detail,) = (d for d in made.get_tensor_details() if d["name"].endswith(".weight"))
    (held,) = (t for t in gm.buffers() if t.dtype is torch.int8)
    stored = torch.from_numpy(made.get_tensor(detail["index"]))
    assert torch.equal(stored.permute(0, 3, 1, 2), held)


def test_all_operators_without_a_form_are_named_at_once() -> None:
    parts = {"first": nn.Linear(6, 6), "last": nn.Linear(6, 4)}
    model = Parts(lambda m, x: m.last(torch.cumsum(m.first(x), 1).tan()), **parts)
    gm = integer(fake_quantized(model, torch.randn(2, 6)))
    with pytest.raises(
        UnsupportedOpError,
        match=r"no \.tflite form for aten\.cumsum\.default at cumsum \(it has none\)",
    ):
        to_tflite(gm)


def test_results_that_are_not_rounded_are_refused_with_what_to_do() -> None:
    layer, x = nn.Linear(6, 6), torch.randn(2, 6)
    gm = integer(fake_quantized(layer, x, config=min_max(results="float32")))
    with pytest.raises(UnsupportedOpError, match="its result is not rounded") as caught:
        to_tflite(gm)
    assert caught.value.fix == "quantize with qpc.quant.config.LayerConfig(results='integer')"


def test_float_graphs_are_to_be_quantized_first() -> None:
    with pytest.raises(UnsupportedOpError, match=r"at linear \(it is in float\)") as caught:
        to_tflite(qpc.trace(nn.Linear(3, 2).eval(), torch.randn(2, 3)))
    assert caught.value.fix == "qpc.quantize(gm, batches), or export to ONNX"


def test_weights_that_the_format_excludes_are_refused() -> None:
    gm = integer(fake_quantized(nn.Linear(6, 6), torch.randn(2, 6)))
    (weight,) = (t for t in gm.buffers() if t.dtype is torch.int8)
    weight[0, 0] = -128
    with pytest.raises(UnsupportedOpError, match="it has weights below -127"):
        to_tflite(gm)


def test_reading_an_input_in_float_as_well_rules_integers_out() -> None:
    layer = nn.Linear(4, 4)
    gm = integer(
        fake_quantized(
            Parts(lambda m, x: m.layer(x) + x.softmax(1), layer=layer), torch.randn(2, 4)
        )
    )
    with pytest.raises(UnsupportedOpError, match="cannot be int8"):
        to_tflite(gm, ends="int8")


def test_what_is_asked_for_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    gm = integer(fake_quantized(nn.Linear(4, 4), torch.randn(2, 4)))
    with pytest.raises(ConfigError, match="batch"):
        to_tflite(gm, 0)
    with pytest.raises(ConfigError, match="ends"):
        to_tflite(gm, ends="uint8")  # type: ignore[arg-type]  # that is the point
    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    with pytest.raises(MissingDependencyError, match="flatbuffers is not installed"):
        to_tflite(gm)


def test_the_same_graph_gives_the_same_bytes() -> None:
    gm = integer(fake_quantized(nn.Conv2d(3, 4, 3), torch.randn(1, 3, 6, 6)))
    assert to_tflite(gm) == to_tflite(gm)

from __future__ import annotations

import json
from math import inf, nan

import pytest

import qpc
from qpc.backends.litert import to_tflite
from qpc.errors import ConfigError
from qpc.exporting.overlay import BAD, GOOD, overlay, sqnr_overlay
from tests.exporting.nets import Residual, as_onnx, images
from tests.quantizing import min_max


def test_numbers_by_tensor_and_colours_from_bad_to_good() -> None:
    made = json.loads(overlay({"relu": 30.0, "add": 12.5, "same": inf}, name="SQNR dB"))
    assert made["name"] == "SQNR dB"
    assert made["results"] == {
        "relu": {"value": 30.0},
        "add": {"value": 12.5},
        "same": {"value": 30.0},
    }
    assert [made["gradient"][i]["bgColor"] for i in (0, -1)] == [BAD, GOOD]


def test_every_tensor_that_was_compared_is_found_in_the_model() -> None:
    pytest.importorskip("onnx")
    float_graph = qpc.trace(Residual(), images())
    gm = qpc.quantize(float_graph, [images()], effort="fast")
    made = json.loads(sqnr_overlay(qpc.compare(float_graph, gm, images())))
    model = as_onnx(gm)
    tensors = {name for node in model.graph.node for name in node.output}
    assert len(made["results"]) == 4, "the layer whose result is added has none of its own"
    assert made["results"].keys() <= tensors


def test_every_tensor_that_was_compared_is_found_in_a_tflite_file() -> None:
    interpreter = pytest.importorskip("ai_edge_litert.interpreter")
    float_graph = qpc.trace(Residual(), images())
    gm = qpc.quantize(float_graph, [images()], min_max(), effort="fast")
    made = json.loads(sqnr_overlay(qpc.compare(float_graph, gm, images())))
    details = interpreter.Interpreter(model_content=to_tflite(gm)).get_tensor_details()
    assert len(made["results"]) == 5
    assert made["results"].keys() <= {detail["name"] for detail in details}


def test_where_less_is_better_colours_are_the_other_way_round() -> None:
    made = json.loads(overlay({"relu": 0.25}, name="ms", more_is_better=False))
    assert [made["gradient"][i]["bgColor"] for i in (0, -1)] == [GOOD, BAD]


def test_numbers_that_are_none_are_refused() -> None:
    with pytest.raises(ConfigError, match="the number of 'relu' is NaN"):
        overlay({"relu": nan}, name="SQNR dB")
    with pytest.raises(ConfigError, match="there are no numbers to show"):
        overlay({}, name="SQNR dB")

from __future__ import annotations

import json

import pytest

from qpc.errors import ArtifactError, ConfigError
from qpc.exporting.encodings import SCHEMAS, VERSIONS, encodings, read_encodings
from qpc.exporting.grids import TensorGrid

VALUE = TensorGrid("relu", (0.5,), 3, 0, 255)
MIDDLE = TensorGrid("sum", (0.25,), 8, 0, 15)
WEIGHT = TensorGrid("conv.weight", (0.5, 2.0), 0, -128, 127, axis=0, parameter=True)
GRIDS = (VALUE, MIDDLE, WEIGHT)


def test_the_first_version_has_a_grid_for_each_channel() -> None:
    written = json.loads(encodings(GRIDS, "0.6.1"))
    assert written["activation_encodings"]["relu"] == [
        {
            "bitwidth": 8,
            "dtype": "int",
            "is_symmetric": "False",
            "scale": 0.5,
            "offset": -3,
            "min": -1.5,
            "max": 126.0,
        }
    ]
    channels = written["param_encodings"]["conv.weight"]
    assert [(c["offset"], c["min"], c["max"]) for c in channels] == [
        (-128, -64.0, 63.5),
        (-128, -256.0, 254.0),
    ]
    assert written["quantizer_args"]["per_channel_quantization"] is True


def test_the_second_version_has_lists() -> None:
    written = json.loads(encodings(GRIDS, "1.0.0"))
    _, middle = written["activation_encodings"]
    assert middle == {
        "name": "sum",
        "enc_type": "PER_TENSOR",
        "dtype": "INT",
        "bw": 4,
        "is_sym": True,
        "scale": [0.25],
        "offset": [-8],
    }
    (weight,) = written["param_encodings"]
    assert (weight["enc_type"], weight["offset"]) == ("PER_CHANNEL", [-128, -128])


def test_the_third_version_has_the_zero_points_of_onnx() -> None:
    written = json.loads(encodings(GRIDS, "2.0.0"))["encodings"]
    assert written == [
        {"name": "relu", "output_dtype": "uint8", "y_scale": 0.5, "y_zero_point": 3},
        {"name": "sum", "output_dtype": "uint4", "y_scale": 0.25, "y_zero_point": 8},
        {"name": "conv.weight", "output_dtype": "int8", "y_scale": [0.5, 2.0], "axis": 0},
    ]


@pytest.mark.parametrize("version", VERSIONS)
def test_grids_come_back_as_they_were(version: str) -> None:
    assert read_encodings(encodings(GRIDS, version).encode()) == GRIDS
    schema = SCHEMAS[version].model_json_schema()
    assert schema["properties"]["version"]["const"] == version
    assert schema["additionalProperties"] is False


def test_tensors_in_float_have_no_grid() -> None:
    text = (
        '{"version": "0.6.1", "activation_encodings": {"x": [{"bitwidth": 16, "dtype": "float"}]},'
        ' "param_encodings": {}}'
    )
    assert read_encodings(text.encode()) == ()


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("[]", "no JSON object"),
        ("{", "not JSON"),
        ('{"version": "3.0.0"}', "version"),
        ('{"version": "2.0.0", "encodings": [{"name": "x"}]}', "output_dtype"),
        (
            '{"version": "2.0.0", "encodings": [{"name": "x", "output_dtype": "uint8",'
            ' "y_scale": -1}]}',
            "greater than 0",
        ),
        (
            '{"version": "2.0.0", "encodings": [{"name": "x", "output_dtype": "uint8",'
            ' "y_scale": [1, 1], "y_zero_point": [1, 2]}]}',
            "'x' has several zero points",
        ),
        (
            '{"version": "0.6.1", "activation_encodings": {"x": [{"bitwidth": 8}]},'
            ' "param_encodings": {}}',
            "'x' has no scale or no offset",
        ),
        (
            '{"version": "1.0.0", "activation_encodings": [{"name": "x", "enc_type": "PER_TENSOR",'
            ' "dtype": "INT", "bw": 8, "scale": [1]}], "param_encodings": []}',
            "'x' has not one offset for 1 scales",
        ),
    ],
)
def test_what_are_no_encodings_is_refused(text: str, wrong: str) -> None:
    with pytest.raises(ArtifactError, match=wrong):
        read_encodings(text.encode(), "net.encodings")


def test_versions_that_there_are_not() -> None:
    with pytest.raises(ConfigError, match=r"no version '1\.1'") as caught:
        encodings(GRIDS, "1.1")
    assert caught.value.fix == "use one of: 0.6.1, 1.0.0, 2.0.0"

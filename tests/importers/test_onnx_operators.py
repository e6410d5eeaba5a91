"""Operators of ONNX by themselves, against the results that the onnx package brings along."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import qpc
from qpc.errors import UnsupportedOpError
from qpc.importers.onnx.fused import with_named_functions
from qpc.importers.onnx.module import OnnxModule
from qpc.importers.onnx.operators import RULES
from tests.exporting.nets import ran
from tests.importers.models import model_of, node, saved

onnx = pytest.importorskip("onnx")
np = pytest.importorskip("numpy")

DATA = Path(onnx.__file__).parent / "backend/test/data"
CASES = sorted(
    p for kind in ("pytorch-converted", "pytorch-operator") for p in (DATA / kind).glob("*")
)


def tensors(folder: Path, kind: str) -> list[Tensor]:
    found = []
    for file in sorted((folder / "test_data_set_0").glob(f"{kind}_*.pb")):
        proto = onnx.TensorProto()
        proto.ParseFromString(file.read_bytes())
        found.append(torch.from_numpy(onnx.numpy_helper.to_array(proto).copy()))
    return found


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_examples_of_onnx(case: Path) -> None:
    module = OnnxModule(onnx.load(case / "model.onnx"), 6)
    made = module(*tensors(case, "input"))
    results = made if isinstance(made, tuple) else (made,)
    for found, expected in zip(results, tensors(case, "output"), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5, equal_nan=True)


# Each is compared with ONNX Runtime.
X = np.linspace(-2, 2, 2 * 4 * 6 * 6, dtype=np.float32).reshape(2, 4, 6, 6)
OPERATORS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "ArgMax": ({"axis": 1}, {}),
    "ArgMin": ({"axis": 2, "keepdims": 0}, {}),
    "AveragePool": ({"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"}, {}),
    "Celu": ({"alpha": 0.5}, {}),
    "Clip": ({}, {"a": np.float32(-0.5), "b": np.float32(1.5)}),
    "CumSum": ({}, {"a": np.array(1)}),
    "DepthToSpace": ({"blocksize": 2, "mode": "DCR"}, {}),
    "Elu": ({"alpha": 0.5}, {}),
    "Equal": ({}, {"a": X[:, :, ::-1].copy()}),
    "Expand": ({}, {"a": np.array([3, 2, 4, 6, 6])}),
    "Floor": ({}, {}),
    "Gather": ({"axis": 2}, {"a": np.array([[0, -1], [3, 2]])}),
    "GatherElements": ({"axis": 3}, {"a": np.array([[[[1, -1]] * 6] * 4] * 2)}),
    "Gelu": ({}, {}),
    "GlobalMaxPool": ({}, {}),
    "HardSwish": ({}, {}),
    "InstanceNormalization": ({}, {"a": X[0, :, 0, 0].copy(), "b": X[1, :, 0, 0].copy()}),
    "LRN": ({"size": 3, "alpha": 0.1}, {}),
    "LogSoftmax": ({"axis": 1}, {}),
    "Max": ({}, {"a": X[:, :, ::-1].copy(), "b": np.float32(0.25)}),
    "MaxPool": ({"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_LOWER"}, {}),
    "Mean": ({}, {"a": X[:, :, ::-1].copy()}),
    "Min": ({}, {"a": X[:, :, ::-1].copy()}),
    "Mish": ({}, {}),
    "PRelu": ({}, {"a": np.array([0.1, 0.2, -0.3, 0.0], np.float32).reshape(4, 1, 1)}),
    "Pad": ({"mode": "reflect"}, {"a": np.array([0, 0, 1, 2, 0, 0, 2, 1])}),
    "ReduceL2": ({"keepdims": 0}, {"a": np.array([1, 2])}),
    "ReduceMax": ({}, {"a": np.array([-1])}),
    "ReduceMin": ({}, {}),
    "ReduceProd": ({}, {"a": np.array([1])}),
    "ReduceSumSquare": ({}, {"a": np.array([1])}),
    "Resize": (
        {"mode": "linear", "coordinate_transformation_mode": "align_corners"},
        {"a": None, "b": np.array([1, 1, 2, 1.5], np.float32)},
    ),
    "Round": ({}, {}),
    "Selu": ({}, {}),
    "Sign": ({}, {}),
    "Slice": (
        {},
        {
            "a": np.array([1, -1]),
            "b": np.array([6, -9]),
            "c": np.array([2, 3]),
            "d": np.array([2, -1]),
        },
    ),
    "Softsign": ({}, {}),
    "SpaceToDepth": ({"blocksize": 3}, {}),
    "Sum": ({}, {"a": X[:, :, ::-1].copy()}),
    "Tile": ({}, {"a": np.array([1, 2, 1, 3])}),
}


@pytest.mark.parametrize("kind", OPERATORS)
def test_operators_give_what_onnx_runtime_gives(kind: str) -> None:
    attributes, inputs = OPERATORS[kind]
    stored = {name: value for name, value in inputs.items() if value is not None}
    names = [name if value is not None else "" for name, value in inputs.items()]
    model = model_of(node(kind, "x", *names, **attributes), sizes=X.shape, opset=20, **stored)
    del model.graph.output[:]
    model.graph.output.append(onnx.ValueInfoProto(name="y"))
    (expected,) = ran(model, torch.from_numpy(X))
    found = OnnxModule(model, 20)(torch.from_numpy(X))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


# What is done to the sizes 2 and 6 of x, before it is reshaped to them.
SIZES: dict[str, tuple[list[Any], dict[str, Any]]] = {
    "Tile": (
        [node("Tile", "s", "a", to="t"), node("Gather", "t", "b", to="w")],
        {"a": np.array([2]), "b": np.array([3, 0])},
    ),
    "Slice": (
        [node("Slice", "s", "a", "b", "c", "a", to="w")],
        {"a": np.array([-1]), "b": np.array([-9]), "c": np.array([0])},
    ),
    "Split": (
        [
            onnx.helper.make_node("Split", ["s"], ["b", "c"], axis=0, num_outputs=2),
            node("Concat", "c", "b", to="w", axis=0),
        ],
        {},
    ),
    "Unsqueeze": (
        [
            node("Gather", "s", "a", to="t"),
            node("Unsqueeze", "t", "b", to="u"),
            node("Concat", "u", "c", to="w", axis=0),
        ],
        {"a": np.array(1), "b": np.array([0]), "c": np.array([-1])},
    ),
    "Squeeze": (
        [
            node("Gather", "s", "a", to="t"),
            node("Squeeze", "t", "b", to="u"),
            node("Reshape", "u", "c", to="v"),
            node("Concat", "v", "c", to="w", axis=0),
        ],
        {"a": np.array([1]), "b": np.array([0]), "c": np.array([-1])},
    ),
    "Expand": (
        [
            node("Gather", "s", "a", to="t"),
            node("Expand", "t", "b", to="u"),
            node("Mul", "u", "c", to="w"),
        ],
        {"a": np.array([0]), "b": np.array([2]), "c": np.array([3, 1])},
    ),
}


@pytest.mark.parametrize("kind", SIZES)
def test_sizes_are_computed_as_onnx_runtime_does(kind: str) -> None:
    nodes, stored = SIZES[kind]
    chain = [node("Shape", "x", to="s"), *nodes, node("Reshape", "x", "w")]
    model, x = (
        model_of(*chain, sizes=("n", 6), opset=20, **stored),
        torch.arange(12.0).reshape(2, 6),
    )
    (expected,) = ran(model, x)
    assert expected.shape == (6, 2)
    assert torch.equal(OnnxModule(model, 20)(x), expected)


def test_functions_that_are_spelled_out_are_found(tmp_path: Path) -> None:
    half, one, root = np.float32(0.5), np.float32(1), np.float32(2**0.5)
    gelu = [
        node("Div", "x", "root", to="a"),
        node("Erf", "a", to="b"),
        node("Add", "b", "one", to="c"),
        node("Mul", "x", "c", to="d"),
        node("Mul", "d", "half"),
    ]
    silu = [node("Sigmoid", "x", to="a"), node("Mul", "a", "x")]
    mish = [node("Softplus", "x", to="a"), node("Tanh", "a", to="b"), node("Mul", "x", "b")]
    hard = [node("HardSigmoid", "x", to="a", alpha=1 / 6), node("Mul", "x", "a")]
    wanted = {"gelu": gelu, "silu": silu, "mish": mish, "hardswish": hard}
    for name, nodes in wanted.items():
        gm = qpc.trace_onnx(saved(tmp_path, *nodes, half=half, one=one, root=root))
        called = [str(n.target) for n in gm.graph.nodes if n.op == "call_function"]
        assert called == [f"aten.{name}.default"]
        assert not list(gm.parameters())


def test_a_step_with_other_readers_is_no_part_of_a_function() -> None:
    nodes = node("Sigmoid", "x", to="a"), node("Mul", "x", "a", to="b"), node("Add", "a", "b")
    module = OnnxModule(model_of(*nodes), 17)
    assert [call.kind for call in module.calls] == ["Sigmoid", "Mul", "Add"]
    assert with_named_functions([], {}, ["y"]) == []


@pytest.mark.parametrize(
    ("kind", "attributes", "why"),
    [
        ("MaxPool", {"kernel_shape": [2, 2], "storage_order": 1}, "storage_order=1 is not read"),
        ("AveragePool", {"kernel_shape": [2, 2], "dilations": [2, 2]}, "dilations=.* is not read"),
        ("Conv", {"auto_pad": "SOME"}, "auto_pad='SOME' is not read"),
        ("Pad", {"mode": "other"}, "mode='other' is not read"),
        ("Upsample", {"scales": [2.0, 1.0, 1.0, 1.0]}, "it resizes the batch or the channels"),
    ],
)
def test_what_is_not_read_is_refused_with_the_node(
    kind: str, attributes: dict[str, Any], why: str
) -> None:
    model = model_of(
        node(kind, "x", *["w"] * (kind == "Conv"), **attributes),
        w=np.ones((4, 4, 3, 3), np.float32),
    )
    with pytest.raises(UnsupportedOpError, match=f"{kind} of opset 17 at 'node 0': {why}"):
        OnnxModule(model, 17)(torch.from_numpy(X))


def test_some_hundred_operators_are_read() -> None:
    assert len(RULES) > 100


@pytest.mark.parametrize("shape", [(2, 6), (2, 4, 6), (2, 4, 6, 6)])
def test_values_are_reflected_at_the_ends_of_all_axes_but_the_batch(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    pads = np.array([0, *[1] * (len(shape) - 1), 0, *[2] * (len(shape) - 1)])
    model = model_of(node("Pad", "x", "p", mode="reflect"), sizes=shape, rank=len(shape), p=pads)
    assert torch.equal(OnnxModule(model, 17)(x), ran(model, x)[0])
    model = model_of(
        node("Pad", "x", "p", mode="edge"), sizes=shape, p=np.ones(2 * len(shape), int)
    )
    with pytest.raises(UnsupportedOpError, match="it pads the batch or the channels by values"):
        OnnxModule(model, 17)(x)


def recurrent(kind: str, directions: int, **attributes: Any) -> Any:
    """A model of one recurrent layer, whose values, last states and first ones are all given."""
    gates, steps, batch, width, given = {"RNN": 1, "GRU": 3, "LSTM": 4}[kind], 5, 2, 3, 4
    drawn = np.random.default_rng(3)
    shapes = {
        "w": (directions, gates * width, given),
        "r": (directions, gates * width, width),
        "b": (directions, 2 * gates * width),
        "h": (directions, batch, width),
        "c": (directions, batch, width),
    }
    first = ("h", "c") if kind == "LSTM" else ("h",)
    stored = {
        name: drawn.normal(size=shape).astype(np.float32)
        for name, shape in shapes.items()
        if name in ("w", "r", "b", *first)
    }
    results = ["y", "last", "cell"][: 3 if kind == "LSTM" else 2]
    layer = onnx.helper.make_node(
        kind, ["x", "w", "r", "b", "", *first], results, hidden_size=width, **attributes
    )
    model = model_of(layer, sizes=(steps, batch, given), **stored)
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in results)
    return model, torch.from_numpy(drawn.normal(size=(steps, batch, given)).astype(np.float32))


@pytest.mark.parametrize(
    ("kind", "directions", "attributes"),
    [
        ("LSTM", 1, {}),
        ("LSTM", 2, {"direction": "bidirectional"}),
        ("LSTM", 1, {"direction": "reverse"}),
        ("GRU", 1, {"linear_before_reset": 1}),
        ("RNN", 1, {}),
        ("RNN", 1, {"activations": ["Relu"]}),
    ],
)
def test_recurrent_layers_give_what_onnx_runtime_gives(
    kind: str, directions: int, attributes: dict[str, Any]
) -> None:
    model, x = recurrent(kind, directions, **attributes)
    for found, expected in zip(OnnxModule(model, 17)(x), ran(model, x), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "attributes", "why"),
    [
        ("GRU", {}, "linear_before_reset=0 is not read"),
        ("LSTM", {"clip": 3.0}, "clip and input_forget are not read"),
        ("LSTM", {"activations": ["Relu", "Tanh", "Tanh"]}, "activations=.* is not read"),
    ],
)
def test_recurrent_layers_of_another_kind_are_refused(
    kind: str, attributes: dict[str, Any], why: str
) -> None:
    model, x = recurrent(kind, 1, **attributes)
    with pytest.raises(UnsupportedOpError, match=why):
        OnnxModule(model, 17)(x)


def test_a_recurrent_layer_with_lengths_is_refused() -> None:
    model, x = recurrent("RNN", 1)
    model.graph.node[0].input[4] = "lengths"
    model.graph.initializer.append(
        onnx.numpy_helper.from_array(np.array([5, 3], np.int32), "lengths")
    )
    with pytest.raises(UnsupportedOpError, match="lengths of sequences and peepholes"):
        OnnxModule(model, 17)(x)

"""Each rule is broken by the smallest model that breaks it, and kept by one that does not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qpc.exporting.tensorrt import tensorrt_problems

onnx = pytest.importorskip("onnx")


def model(nodes: list[Any], outputs: str = "y", **constants: Any) -> Any:
    """A model of one input `x`; nodes are (operator, inputs, output, attributes)."""
    from onnx import TensorProto, helper, numpy_helper

    made = [
        helper.make_node(kind, inputs, [output], f"{kind}_{output}", **(attributes or {}))
        for kind, inputs, output, attributes in nodes
    ]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        made,
        "test",
        [info("x", TensorProto.FLOAT, [1, 2, 4, 4])],
        [info(outputs, TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph)


GRID: dict[str, Any] = {"s": np.float32(0.5), "z": np.int8(0)}
WEIGHT: dict[str, Any] = {
    "w": np.ones((3, 2, 1, 1), np.int8),
    "ws": np.ones(3, np.float32),
    "wz": np.zeros(3, np.int8),
    "b": np.zeros(3, np.float32),
}
ROUND = [
    ("QuantizeLinear", ["x", "s", "z"], "q", None),
    ("DequantizeLinear", ["q", "s", "z"], "d", None),
]
WEIGHTS = [("DequantizeLinear", ["w", "ws", "wz"], "v", {"axis": 0})]
CONV = [*ROUND, *WEIGHTS, ("Conv", ["d", "v", "b"], "y", None)]


def test_a_model_that_keeps_to_the_rules_has_no_problems() -> None:
    assert tensorrt_problems(model(CONV, **GRID, **WEIGHT)) == []
    assert tensorrt_problems(model([("Relu", ["x"], "y", None)])) == []


BROKEN: dict[str, tuple[Any, str]] = {
    "uint8": (
        model(CONV, **GRID | {"z": np.uint8(0)}, **WEIGHT),
        "QuantizeLinear_q: integers of type UINT8, not INT8, INT4 or FP8",
    ),
    "a quantized bias": (
        model(
            [
                *ROUND,
                *WEIGHTS,
                ("DequantizeLinear", ["bi", "ws", "bz"], "b", {"axis": 0}),
                ("Conv", ["d", "v", "b"], "y", None),
            ],
            **GRID,
            **{k: v for k, v in WEIGHT.items() if k != "b"},
            bi=np.zeros(3, np.int32),
            bz=np.zeros(3, np.int32),
        ),
        "Conv_y: its bias is quantized",
    ),
    "int32 behind a DequantizeLinear": (
        model(
            [("DequantizeLinear", ["i", "s"], "y", None)],
            i=np.array([1], np.int32),
            s=np.float32(1),
        ),
        "DequantizeLinear_y: integers of type INT32, not INT8, INT4 or FP8",
    ),
    "a zero point": (
        model(CONV, **GRID | {"z": np.int8(3)}, **WEIGHT),
        "QuantizeLinear_q: a zero point that is not 0",
    ),
    "a zero point that is computed": (
        model([("Cast", ["x"], "z", {"to": 3}), *ROUND, ("Relu", ["d"], "y", None)], s=GRID["s"]),
        "QuantizeLinear_q: a zero point that is computed",
    ),
    "a scale that is computed": (
        model([("Abs", ["x"], "s", None), *ROUND, ("Relu", ["d"], "y", None)], z=GRID["z"]),
        "QuantizeLinear_q: a scale that is computed",
    ),
    "a scale of 0": (
        model(CONV, **GRID | {"s": np.float32(0)}, **WEIGHT),
        "QuantizeLinear_q: a scale that is not above 0",
    ),
    "other counts": (
        model(CONV, **GRID, **WEIGHT | {"wz": np.zeros(2, np.int8)}),
        "DequantizeLinear_v: 3 scales and 2 zero points",
    ),
    "scales for a value": (
        model(
            [
                ("QuantizeLinear", ["x", "s", "z"], "q", {"axis": 1}),
                ("DequantizeLinear", ["q", "s", "z"], "y", {"axis": 1}),
            ],
            s=np.ones(2, np.float32),
            z=np.zeros(2, np.int8),
        ),
        "QuantizeLinear_q: several scales for a value that is computed",
    ),
    "too few scales": (
        model(
            CONV,
            **GRID,
            **WEIGHT | {"ws": np.ones(2, np.float32), "wz": np.zeros(2, np.int8)},
        ),
        "DequantizeLinear_v: 2 scales for axis 0 of [3, 2, 1, 1]",
    ),
    "integers that others read": (
        model([ROUND[0], ("Cast", ["q"], "y", {"to": 1})], **GRID),
        "QuantizeLinear_q: its integers are read by Cast, not by DequantizeLinear alone",
    ),
    "integers as a result": (
        model([ROUND[0]], "q", **GRID),
        "QuantizeLinear_q: its integers are read by an output of the model, not by"
        " DequantizeLinear alone",
    ),
    "a float value and a quantized weight": (
        model([*WEIGHTS, ("Conv", ["x", "v", "b"], "y", None)], **WEIGHT),
        "Conv_y: input 'x' is not quantized, and another one is",
    ),
    "a quantized value and a float weight": (
        model([*ROUND, ("MatMul", ["d", "f"], "y", None)], **GRID, f=np.ones((4, 4), np.float32)),
        "MatMul_y: input 'f' is not quantized, and another one is",
    ),
    "scales along the inputs": (
        model(
            [
                *ROUND,
                ("DequantizeLinear", ["w", "ws", "wz"], "v", {"axis": 0}),
                ("ConvTranspose", ["d", "v", "b"], "y", None),
            ],
            **GRID,
            **WEIGHT,
        ),
        "ConvTranspose_y: scales along axis 0 of its weight, not 1",
    ),
    "a join of two grids": (
        model(
            [
                *ROUND,
                ("QuantizeLinear", ["x", "s2", "z"], "q2", None),
                ("DequantizeLinear", ["q2", "s2", "z"], "d2", None),
                ("Concat", ["d", "d2"], "y", {"axis": 1}),
            ],
            **GRID,
            s2=np.float32(2),
        ),
        "Concat_y: its inputs have 2 scales",
    ),
    "a join with a float value": (
        model([*ROUND, ("Concat", ["d", "x"], "y", {"axis": 1})], **GRID),
        "Concat_y: some of its inputs are quantized, and some are not",
    ),
    "a product with a float value": (
        model([*ROUND, ("Mul", ["d", "x"], "y", None)], **GRID),
        "Mul_y: one of its operands is quantized, and the other is not",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_rule_that_is_broken_is_named(name: str) -> None:
    broken, problem = BROKEN[name]
    assert problem in tensorrt_problems(broken)


def test_what_only_moves_values_is_looked_through() -> None:
    moved = [*ROUND, ("Transpose", ["d"], "t", {"perm": [0, 1, 3, 2]}), *WEIGHTS]
    kept = model([*moved, ("Conv", ["t", "v", "b"], "y", None)], **GRID, **WEIGHT)
    assert tensorrt_problems(kept) == []


def test_a_function_of_one_value_is_no_product_of_two() -> None:
    silu = [*ROUND, ("Sigmoid", ["d"], "t", None), ("Mul", ["d", "t"], "y", None)]
    assert tensorrt_problems(model(silu, **GRID)) == []


def test_a_product_with_a_constant_is_no_product_of_two_values() -> None:
    kept = model([*ROUND, ("Mul", ["d", "c"], "y", None)], **GRID, c=np.float32(2))
    assert tensorrt_problems(kept) == []

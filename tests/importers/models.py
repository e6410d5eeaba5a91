"""Small ONNX models, written by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx


def node(kind: str, *inputs: str, to: str = "y", **attributes: Any) -> Any:
    """A node of one output."""
    return onnx.helper.make_node(kind, inputs, [to], **attributes)


def model_of(
    *nodes: Any, sizes: Any = ("n", 4), opset: int = 17, rank: int = 2, **stored: Any
) -> Any:
    """From x to y, with initializers by name; rank: of y."""
    helper, float32 = onnx.helper, onnx.TensorProto.FLOAT
    given = helper.make_tensor_value_info("x", float32, sizes)
    made = helper.make_tensor_value_info("y", float32, ["m"] * rank)
    constants = [onnx.numpy_helper.from_array(v, n) for n, v in stored.items()]
    graph = helper.make_graph(list(nodes), "g", [given], [made], constants)
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8)


def saved(folder: Path, *nodes: Any, **options: Any) -> Path:
    """`model_of` as a file."""
    file = folder / "net.onnx"
    file.write_bytes(model_of(*nodes, **options).SerializeToString())
    return file

"""Running .tflite files with LiteRT, beside the integer graph."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor
from torch.fx import GraphModule

from qpc.backends.litert import to_tflite
from qpc.meta import info

KERNELS = ("xnnpack", "built-in", "reference")


def results(data: bytes, inputs: dict[str, npt.NDArray[np.generic]], kernels: str) -> list[Tensor]:
    """What LiteRT computes with one of its sets of kernels, images as NCHW."""
    interpreter = pytest.importorskip("ai_edge_litert.interpreter")
    resolvers = interpreter.OpResolverType
    chosen = {
        "xnnpack": resolvers.AUTO,
        "built-in": resolvers.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        "reference": resolvers.BUILTIN_REF,
    }
    made = interpreter.Interpreter(
        model_content=data, num_threads=1, experimental_op_resolver_type=chosen[kernels]
    )
    made.allocate_tensors()
    for detail in made.get_input_details():
        value = inputs[detail["name"]]
        made.set_tensor(detail["index"], value.transpose(0, 2, 3, 1) if value.ndim == 4 else value)
    made.invoke()
    found = [made.get_tensor(detail["index"]) for detail in made.get_output_details()]
    return [
        torch.from_numpy(value.transpose(0, 3, 1, 2).copy() if value.ndim == 4 else value)
        for value in found
    ]


def steps_off(gm: GraphModule, *inputs: Tensor, kernels: str = "reference") -> int:
    """How many steps of its grid an output of the file is off that of the graph, at most."""
    (output,) = gm.graph.find_nodes(op="output")
    names = [str(node.name) for node in gm.graph.find_nodes(op="placeholder")]
    given = {name: x.numpy() for name, x in zip(names, inputs, strict=True)}
    found = results(to_tflite(gm, len(inputs[0])), given, kernels)
    expected = gm(*inputs)
    expected = expected if isinstance(expected, tuple) else (expected,)
    off = 0
    for node, a, b in zip(output.all_input_nodes, found, expected, strict=True):
        assert a.shape == b.shape
        grid = info(node.all_input_nodes[0]).qparams
        assert grid is not None
        off = max(off, round(float((a - b).abs().max()) / grid.scale))
    return off

"""Tables, and rectifiers with a slope for each channel."""

from __future__ import annotations

import numpy as np
import torch
from torch.fx import Node

from qpc.calls import arguments, qpc_ops
from qpc.exporting.onnx.exporter import Exporter, Rule
from qpc.exporting.onnx.integers.arithmetic import centred, int32, requantized


def _lookup(to: Exporter, node: Node) -> str:
    """`qpc::lookup`: tables begin with the least integer."""
    source = arguments(node)["q"]
    index = to.cast(to.of(source), torch.int32)
    if least := torch.iinfo(to.type(source).dtype).min:
        index = to.emit("Sub", [index, int32(to, least)])
    return to.emit("Gather", [to.value(node, "table"), index], axis=0)


def _prelu(to: Exporter, node: Node) -> str:
    """`qpc::prelu`: one product, by the factor of its sign."""
    given = arguments(node)
    values = centred(to, given["q"], given["input_zero_point"])
    negative = to.tensor(node, "negative").numpy()[:, None, None]
    below = to.emit("Less", [values, int32(to, 0)])
    sides = [to.constant(negative), to.constant(np.float32(given["positive"]))]
    return requantized(to, node, values, to.emit("Where", [below, *sides]))


RULES: dict[object, Rule] = {
    qpc_ops.lookup.default: _lookup,
    qpc_ops.prelu.default: _prelu,
}

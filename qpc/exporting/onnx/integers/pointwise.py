"""Tables."""

from __future__ import annotations

import torch
from torch.fx import Node

from qpc.calls import arguments, qpc_ops
from qpc.exporting.onnx.exporter import Exporter, Rule
from qpc.exporting.onnx.integers.arithmetic import int32


def _lookup(to: Exporter, node: Node) -> str:
    """`qpc::lookup`: tables begin with the least integer."""
    source = arguments(node)["q"]
    index = to.cast(to.of(source), torch.int32)
    if least := torch.iinfo(to.type(source).dtype).min:
        index = to.emit("Sub", [index, int32(to, least)])
    return to.emit("Gather", [to.value(node, "table"), index], axis=0)


RULES: dict[object, Rule] = {
    qpc_ops.lookup.default: _lookup,
}

"""Joins."""

from __future__ import annotations

from torch.fx import Node

from qpc.calls import aten
from qpc.exporting.onnx.exporter import Exporter, Rule
from qpc.ops.concat import Cat


def _cat(to: Exporter, node: Node) -> str:
    """`aten.cat`."""
    view = Cat(node)
    return to.emit("Concat", [to.of(v) for v in view.tensors], axis=view.dim)


RULES: dict[object, Rule] = {
    aten.cat.default: _cat,
}

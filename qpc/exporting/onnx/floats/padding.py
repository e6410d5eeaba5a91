"""Padding."""

from __future__ import annotations

import numpy as np
import torch
from torch.fx import Node

from qpc.calls import aten
from qpc.exporting.onnx.exporter import Exporter, Rule
from qpc.meta import info
from qpc.ops.integer_convolution import IntConv2d
from qpc.ops.padding import Pad, zero_padding
from qpc.types import dtype_name


def joins_convolutions(to: Exporter, node: Node) -> bool:
    """Whether the integer convolutions that read a padding do what it does."""
    if to.form.exact or not to.is_integer(node) or zero_padding(node) is None:
        return False
    return all(IntConv2d.matches(user) for user in node.users)


def _pad(to: Exporter, node: Node) -> str:
    """`aten.constant_pad_nd`, unless the convolutions that read it do it."""
    view = Pad(node)
    if joins_convolutions(to, node):
        return to.of(view.input)
    rank, value, dtype = len(to.shape(node)), view.value, to.type(node).dtype
    grid = info(node).qparams
    if to.is_integer(node) and not to.form.exact and grid is not None:
        value, dtype = (view.value - grid.zero_point) * grid.scale, torch.float32
    before, after = [0] * rank, [0] * rank
    for i in range(len(view.pad) // 2):
        before[-1 - i], after[-1 - i] = view.pad[2 * i : 2 * i + 2]
    number = to.constant(np.array(value, dtype_name(dtype)))
    return to.emit("Pad", [to.of(view.input), to.integers([*before, *after]), number])


RULES: dict[object, Rule] = {
    aten.constant_pad_nd.default: _pad,
}

"""Padding."""

from __future__ import annotations

import numpy as np
import torch
from torch.fx import Node

from qpc.backends.onnx.exporter import Exporter, Rule
from qpc.calls import aten
from qpc.ops.convolution import IntConv2d
from qpc.ops.padding import Pad


def zero_padding(to: Exporter, node: Node) -> list[int] | None:
    """What a padding by zeros of height and width alone adds: top, left, bottom, right."""
    pad = Pad.of(node)
    if pad is None or len(pad.pad) > 4 or pad.value != to.grid(node).zero_point:
        return None
    left, right, top, bottom = (*pad.pad, 0, 0)[:4]
    return [top, left, bottom, right] if min(left, right, top, bottom) >= 0 else None


def _pad(to: Exporter, node: Node) -> str:
    """`aten.constant_pad_nd`, unless the convolutions that read it do it."""
    view = Pad(node)
    if zero_padding(to, node) is not None and all(IntConv2d.matches(user) for user in node.users):
        return to.names[view.input]
    rank, value = len(to.shape(node)), view.value
    if to.shape(node) and _is_integer(to, node):
        grid = to.grid(node)
        value = (view.value - grid.zero_point) * grid.scale
    before, after = [0] * rank, [0] * rank
    for i in range(len(view.pad) // 2):
        before[-1 - i], after[-1 - i] = view.pad[2 * i : 2 * i + 2]
    ends = [to.integers([*before, *after]), to.constant(np.float32(value))]
    return to.emit("Pad", [to.names[view.input], *ends])


def _is_integer(to: Exporter, node: Node) -> bool:
    return getattr(to.types[node], "dtype", None) in (torch.uint8, torch.int8)


RULES: dict[object, Rule] = {
    aten.constant_pad_nd.default: _pad,
}

"""Leaky rectifiers with a slope for each channel.

The format's own PRELU rounds the slopes to 8 bits of one grid. Here each side of zero is one
product that is rounded once: below it a depthwise convolution, whose weights have a scale for each
channel.
"""

from __future__ import annotations

import numpy as np
from torch.fx import Node

from qpc.backends.litert.arithmetic import aligned
from qpc.backends.litert.choices import chosen
from qpc.backends.litert.exporter import Exporter, Rule
from qpc.backends.litert.pooling import scaled_windows
from qpc.backends.litert.stored import as_stored_point
from qpc.backends.litert.tables import Kind
from qpc.backends.litert.windows import Window
from qpc.calls import arguments, qpc_ops


def _prelu(to: Exporter, node: Node) -> int:
    """`qpc::prelu`."""
    index, before = to.value(node, "q"), to.grid(arguments(node)["q"])
    of, after = to.stored(index), to.result(node)
    point = as_stored_point(before.zero_point, before.dtype)
    zero = to.constant(np.array(point, np.int8), of.grid)
    inside = to.like(index, of.shape)
    below = to.emit(Kind.MINIMUM, [index, zero], inside)
    factors = to.tensor(node, "negative").double() * to.grid(node).scale / before.scale
    below = scaled_windows(to, node, below, Window((1, 1), (1, 1)), factors.tolist())
    above = to.emit(Kind.QUANTIZE, [to.emit(Kind.MAXIMUM, [index, zero], inside)], after)
    mask = to.emit(
        Kind.GREATER,
        [index, aligned(to, zero, len(of.shape))],
        to.like(index, of.shape, dtype="bool", grid=None),
    )
    return to.bounded(node, chosen(to, node, mask, above, below))


RULES: dict[object, Rule] = {
    qpc_ops.prelu.default: _prelu,
}

"""Batches in pieces whose values fit into memory; the first samples are looked at longer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.fx import GraphModule, Node

from qpc.batches import Batch, inputs_of
from qpc.explanation.float_runs import output_of
from qpc.meta import info
from qpc.types import BatchDim, resolve

MOST_BYTES = 1 << 28
"""Of all values of a float graph that are kept at a time."""


@dataclass(frozen=True)
class Piece:
    """Some samples of a batch.

    batch: its number. inputs: of the graph. longer: whether they are among the first samples, which
    are looked at longer.
    """

    batch: int
    inputs: list[Tensor]
    longer: bool

    @property
    def samples(self) -> int:
        """How many there are."""
        first = self.inputs[0] if self.inputs else None
        return len(first) if first is not None and first.dim() else 1


def pieces_of(
    gm: GraphModule, batches: Sequence[Batch], longer: int, most_bytes: int = MOST_BYTES
) -> list[Piece]:
    """Batches cut along the batch axis, where all inputs and outputs of the graph have one.

    longer: how many samples are looked at longer; at least a piece is. most_bytes: of the values of
    a piece; a single sample may have more. Raises CalibrationError for batches that do not fit.
    """
    separable = _separable(gm)
    most = max(most_bytes // max(_bytes_of_sample(gm), 1), 1)
    found: list[Piece] = []
    left = max(longer, 1)
    for number, batch in enumerate(batches):
        inputs = inputs_of(gm, batch, number)
        start = 0
        while True:
            piece = Piece(number, inputs, left > 0)
            end = start + min(most, left if left > 0 else most)
            if separable:
                piece = Piece(number, [x[start:end] for x in inputs], left > 0)
            found.append(piece)
            left -= piece.samples
            start = end
            if not separable or start >= len(inputs[0]):
                break
    return found


def _separable(gm: GraphModule) -> bool:
    """Whether samples lie along the first axis of all that comes in and goes out."""
    inputs = gm.graph.find_nodes(op="placeholder")
    outputs = output_of(gm).all_input_nodes
    return bool(inputs) and all(map(_along_first_axis, (*inputs, *outputs)))


def _along_first_axis(node: Node) -> bool:
    shape = info(node).shape
    return bool(shape) and shape is not None and shape[0] == BatchDim()


def _bytes_of_sample(gm: GraphModule) -> int:
    """Of all values of the graph at batch size 1."""
    total = 0
    for node in gm.graph.nodes:
        about = info(node)
        if node.op == "call_function" and about.shape is not None and about.dtype is not None:
            total += math.prod(resolve(about.shape, 1)) * about.dtype.itemsize
    return total

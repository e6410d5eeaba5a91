"""Batches in parts that are small enough to be quick: their values stay near the processor.

Values of tens of megabytes are given back to the system by the allocator and fetched anew, page by
page, for every operator; parts take half of the time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from torch import Tensor
from torch.fx import GraphModule, Node

from qpc.meta import info
from qpc.types import BatchDim, resolve

_BYTES = 16 << 20  # of the largest value of a part


def samples_at_a_time(gm: GraphModule) -> int | None:
    """How many samples the graph is best evaluated with at once.

    None for graphs that cannot be trusted to treat samples one by one: the first axis of every
    value that depends on the inputs must lie along the batch.
    """
    dependent: set[Node] = set()
    largest = 1
    for node in gm.graph.nodes:
        if node.op != "placeholder" and dependent.isdisjoint(node.all_input_nodes):
            continue
        dependent.add(node)
        shape, dtype = info(node).shape, info(node).dtype
        if shape is None or dtype is None:
            if node.op == "placeholder":
                return None
            continue  # several values, or a size
        if not shape or not isinstance(shape[0], BatchDim) or shape[0].offset:
            return None
        if node.op == "placeholder" and shape[0] != BatchDim():
            return None
        largest = max(largest, math.prod(resolve(shape, 1)) * dtype.itemsize)
    return max(_BYTES // largest, 1) if dependent else None


def in_parts(
    tensors: Sequence[Tensor], samples: int | None, first: int = 0
) -> Iterator[list[Tensor]]:
    """The inputs of a batch in parts of so many samples at the most; whole if that is None.

    first: a part also ends behind so many samples.
    """
    if samples is None:
        yield list(tensors)
        return
    begin, count = 0, len(tensors[0])
    while begin < count or begin == 0:
        end = begin + samples
        if begin < first < end:
            end = first
        yield [tensor[begin:end] for tensor in tensors]
        begin = end

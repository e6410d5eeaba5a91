"""Clips between QuantizeLinear and DequantizeLinear: grids of fewer bits than they are stored in.

Called QCDQ. Brevitas writes it, and QPC itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx

Ends = tuple[int, int]


def clipped_ends(graph: onnx.GraphProto, constants: Mapping[str, Any]) -> dict[str, Ends]:
    """By the outputs of all three nodes: the least and the greatest integer between them.

    constants: arrays by the names of tensors.
    """
    made_by = {name: node for node in graph.node for name in node.output}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    found: dict[str, Ends] = {}
    for clip in graph.node:
        source = made_by.get(clip.input[0]) if clip.op_type == "Clip" else None
        if source is None or source.op_type != "QuantizeLinear":
            continue
        after = readers.get(clip.output[0], [])
        ends = [constants.get(name) for name in clip.input[1:3]]
        plain = len(readers[source.output[0]]) == 1
        plain = plain and all(node.op_type == "DequantizeLinear" for node in after)
        numbers = [int(end.reshape(())) for end in ends if end is not None and end.size == 1]
        if plain and len(numbers) == 2:  # both ends
            low, high = numbers
            found |= {node.output[0]: (low, high) for node in (source, clip, *after)}
    return found

"""Merge calibrations that were made on shards of the data."""

from __future__ import annotations

from torch.fx import GraphModule

from qpc.calls import qpc_ops
from qpc.errors import CalibrationError
from qpc.facts import observer_state, require_graph
from qpc.meta import copied, info
from qpc.printer import format_graph


def merge_calibration(first: GraphModule, *others: GraphModule) -> GraphModule:
    """Return a copy of `first` whose observers have also seen what those of `others` saw.

    The graphs must be copies of one graph with observers, each calibrated on its own shard; the
    shards count in the order given. The result equals calibration on all shards in one run, bit for
    bit.

    Raises CalibrationError if the graphs differ.
    """
    require_graph(first, "merge_calibration")
    merged = copied(first)
    for position, other in enumerate(others, start=1):
        require_graph(other, "merge_calibration")
        if format_graph(other) != format_graph(first):
            raise CalibrationError(
                f"graph {position} is not a copy of graph 0",
                fix="insert observers once, and calibrate copies of the result",
            )
        pairs = zip(merged.graph.nodes, other.graph.nodes, strict=True)
        for node, twin in pairs:
            config = info(node).config
            if node.target is not qpc_ops.observe.default or config is None:
                continue
            states = observer_state(merged, node), observer_state(other, twin)
            module = merged.get_submodule(str(node.args[1]))
            for key, value in config.activation.observer.merge(*states).items():
                module.register_buffer(key, value)
    return merged

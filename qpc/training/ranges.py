"""Grids that follow their values while a graph trains, and no longer."""

from __future__ import annotations

from torch.fx import GraphModule, Node

from qpc.calls import arguments, drop_defaults, qpc_ops, set_arguments
from qpc.edit import Editor
from qpc.facts import require_graph
from qpc.meta import attribute, info, update_info
from qpc.quant.grid import QParams


def freeze_ranges(gm: GraphModule) -> GraphModule:
    """Keep the grids that follow their values as they are now, in place, and return `gm`.

    gm: a graph of `qpc.prepare_qat(..., learn=qpc.passes.FollowRanges())`, in training or not. Call
    it between two steps of a loop, for the last part of training: what is trained then is what is
    deployed. Grids that are learned go on learning.
    """
    require_graph(gm, "freeze_ranges")
    calls = following(gm)
    grids: dict[str, QParams] = {}
    for node in calls:
        set_arguments(
            node,
            range=None,
            member=0,
            decay=0.0,
            symmetric=False,
            synchronized=False,
            training=False,
        )
        drop_defaults(node)
        if observer := info(node).observer:
            grids[observer] = _grid(gm, node)
    for node in gm.graph.nodes:
        if (observer := info(node).observer) in grids:
            update_info(node, qparams=grids[str(observer)])
    if calls:
        Editor(gm, "freeze-ranges").drop_unused()
        gm.recompile()
    return gm


def following(gm: GraphModule) -> list[Node]:
    """The calls that round to a grid which follows the values."""
    calls = gm.graph.find_nodes(op="call_function", target=qpc_ops.fake_quantize.default)
    return [node for node in calls if arguments(node)["range"] is not None]


def _grid(gm: GraphModule, node: Node) -> QParams:
    given, old = arguments(node), info(node).qparams
    assert old is not None
    scale, zero = (attribute(gm, str(given[name].target)) for name in ("scale", "zero_point"))
    return QParams(float(scale), int(zero), old.lo, old.hi, old.dtype)

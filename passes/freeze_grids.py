"""Make grids of the scales and zero points that training has left.

Before:  x -> fake_quantize(scale, zero point), which may be parameters that training has moved
After:   the same with legal scales and whole zero points, all of them buffers, noted as the grids
         that conversion to integers reads
Keeps:   the output up to float rounding, but where a scale must be raised for its bias
Leaves:  grids that have not moved
Cost:    one walk over the graph

Scales of weights are raised where a bias, which training moves too, would not fit 32 bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from qpc.analysis.roundings import grid_tensor, unrounded
from qpc.base import Pass, PassContext
from qpc.calls import arguments, qpc_ops
from qpc.edit import Editor
from qpc.errors import PassError
from qpc.facts import FAKE_QUANTIZED
from qpc.layers import float_layer
from qpc.meta import attribute, info, label, update_info
from qpc.quant.fixedpoint import floor_scales_for_bias
from qpc.quant.grid import LARGEST_SCALE, SMALLEST_SCALE, QParams, nearest_scale
from qpc.training.ranges import following, freeze_ranges


@dataclass(frozen=True)
class FreezeGrids(Pass, name="freeze-grids", requires={FAKE_QUANTIZED}):
    """Fix the grids of a fake-quantized graph as they are now."""

    def apply(self, gm: GraphModule, ctx: PassContext) -> bool:
        editor = Editor(gm, self.name)
        followed = len(following(gm))
        freeze_ranges(gm)
        calls = gm.graph.find_nodes(op="call_function", target=qpc_ops.fake_quantize.default)
        grids = {observer: _grid(gm, n) for n in calls if (observer := info(n).observer)}
        moved = [n for n in gm.graph.nodes if _note_grid(n, grids)]
        changed = bool(moved or followed)
        for node in calls:
            observer = info(node).observer
            if observer:
                grid = grids[observer]
                scale, zero = torch.tensor([grid.scale]), torch.tensor([grid.zero_point])
            else:
                scale = _weight_scales(gm, node, grids)
                zero = torch.zeros_like(_finite(gm, node, "zero_point"), dtype=torch.int64)
            changed |= _set(editor, node, "scale", scale)
            changed |= _set(editor, node, "zero_point", zero)
        ctx.summarize(f"{len(grids)} grids fixed, {len(moved)} values have another one than before")
        return changed


def grids_are_frozen(gm: GraphModule) -> bool:
    """Whether every value is rounded to the grid that its node notes."""
    for node in gm.graph.find_nodes(op="call_function", target=qpc_ops.fake_quantize.default):
        if arguments(node)["range"] is not None:
            return False
        names = [str(grid_tensor(node, name).target) for name in ("scale", "zero_point")]
        tensors = [attribute(gm, name) for name in names]
        if any(isinstance(t, nn.Parameter) for t in tensors):
            return False
        grid = info(node).qparams
        if grid is not None and [t.tolist() for t in tensors] != [[grid.scale], [grid.zero_point]]:
            return False
    return True


def _note_grid(node: Node, grids: Mapping[str, QParams]) -> bool:
    """Whether the node has another grid than it had."""
    grid = grids.get(info(node).observer or "")
    if grid is None or info(node).qparams == grid:
        return False
    update_info(node, qparams=grid)
    return True


def _grid(gm: GraphModule, node: Node) -> QParams:
    """The legal grid nearest to the tensors of an activation's rounding."""
    given, old = arguments(node), info(node).qparams
    assert old is not None
    # a step of 0 is the smallest while it trains, and not the 1.0 of an empty range
    scale = nearest_scale(max(float(_finite(gm, node, "scale").abs()), SMALLEST_SCALE))
    zero = round(float(_finite(gm, node, "zero_point")))
    return QParams(scale, min(max(zero, old.lo), old.hi), given["lo"], given["hi"], old.dtype)


def _weight_scales(gm: GraphModule, node: Node, grids: Mapping[str, QParams]) -> Tensor:
    """Scales that are legal, and at which the bias of the layer fits its integer."""
    scales = _finite(gm, node, "scale").abs().clamp(SMALLEST_SCALE, LARGEST_SCALE)
    for user in node.users:
        layer = float_layer(user)
        source = info(layer.input).qparams if layer is not None else None
        if layer is None or layer.bias is None or source is None:
            continue
        bias = attribute(gm, str(unrounded(layer.bias).target)).detach()
        scales = floor_scales_for_bias(scales, bias, source.scale)
    return scales


def _finite(gm: GraphModule, node: Node, argument: str) -> Tensor:
    name = str(grid_tensor(node, argument).target)
    value = attribute(gm, name).detach()
    if not value.isfinite().all():
        raise PassError(
            f"training has left {name!r}, a {argument.replace('_', ' ')} of {label(node)}, without "
            "a finite value",
            node=node,
            fix="train from the last good checkpoint, with a smaller learning rate",
        )
    return value.float()


def _set(editor: Editor, node: Node, argument: str, value: Tensor) -> bool:
    """Store a tensor of a grid as a buffer; whether it was another one, or a parameter."""
    tensor = grid_tensor(node, argument)
    before = attribute(editor.gm, str(tensor.target))
    update_info(tensor, dtype=value.dtype)
    if not isinstance(before, nn.Parameter) and torch.equal(before, value):
        return False
    editor.set_tensor(str(tensor.target), value)
    return True

"""Layers that join additions as two operators, for formats that have none for both.

The layer's value gets a grid of its own, and is rounded to it. What is beyond that grid would
have been clamped in the sum, so that the grid is no wider than that; it is 8 bits, all the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from qpc.calls import arguments, qpc_ops
from qpc.edit import Editor
from qpc.layers import IntWeighted, integer_layer, outputs_first
from qpc.meta import attribute, copied, info, update_info
from qpc.quant.fixedpoint import accumulator_bounds, add_multipliers
from qpc.quant.grid import Grid, QParams

_ORIGIN = "separate-sums"


def with_separate_sums(
    gm: GraphModule, *, rounded: bool = True
) -> tuple[GraphModule, tuple[Node, ...]]:
    """A graph of integer operators whose layers join no additions, and the layers that did.

    `gm` itself if there are none; otherwise a copy, in which a layer's value is on the narrowest
    grid of 8 bits that no result needs more of. Values must know their grids.

    rounded: False where nobody will round these values: then they have the scale of the sums, with
    which scales of weights follow from multipliers as they do without the addition.
    """
    if not any(_apart(node) for node in gm.graph.nodes):
        return gm, ()
    made = copied(gm)
    editor = Editor(made, _ORIGIN)
    joined = [(node, target) for node in made.graph.nodes if (target := _apart(node)) is not None]
    layers = tuple(_separated(editor, node, target, rounded) for node, target in joined)
    editor.drop_unused()
    made.recompile()
    return made, layers


def _apart(node: Node) -> Callable[..., object] | None:
    """The layer's operator that does not add, for one that does."""
    apart: dict[object, Callable[..., object]] = {
        qpc_ops.conv2d_add.default: qpc_ops.conv2d.default,
        qpc_ops.conv_transpose2d_add.default: qpc_ops.conv_transpose2d.default,
        qpc_ops.linear_add.default: qpc_ops.linear.default,
    }
    return apart.get(node.target)


def _separated(editor: Editor, node: Node, target: Callable[..., object], rounded: bool) -> Node:
    """Put the layer and an addition in the place of `node`; return the layer."""
    view, given = integer_layer(node), arguments(node)
    assert view is not None
    result, other = info(node).qparams, info(given["other"]).qparams
    assert result is not None
    assert other is not None
    multiplier = attribute(editor.gm, str(view.multiplier.target)).to(torch.float64)
    reals = multiplier * (result.scale / 2.0 ** given["shift"])  # of a step of each accumulator
    subtracts = given["other_multiplier"] < 0
    bounds = _bounds(editor.gm, view, reals), _needed(given, result, other, subtracts=subtracts)
    least, greatest = max(b[0] for b in bounds), min(b[1] for b in bounds)
    points = Grid(8, signed=result.dtype is torch.int8)
    middle = QParams.from_range(-1.0, 1.0, points, symmetric=True).zero_point
    symmetric = result.zero_point == other.zero_point == middle  # as all grids may have to be
    grid = QParams.from_range(least, max(least, greatest), points, symmetric=symmetric)
    grid = grid if rounded else replace(grid, scale=result.scale)
    name = editor.free_name(f"{view.multiplier.target}_apart")
    own = editor.buffer(name, (reals / grid.scale).to(torch.float32), before=node)
    kept = list(given.values())[: list(given).index("other")]
    kept[list(given).index("multiplier")] = own
    layer = editor.call(target, *kept, grid.zero_point, grid.lo, grid.hi, like=node)
    update_info(layer, qparams=grid, config=info(node).config, module_path=info(node).module_path)
    first, second, shift = add_multipliers((grid.scale, other.scale), result.scale)
    total = editor.call(
        qpc_ops.add.default,
        layer,
        given["other"],
        grid.zero_point,
        other.zero_point,
        first,
        -second if subtracts else second,
        shift,
        *(given[name] for name in ("output_zero_point", "lo", "hi")),
        like=node,
    )
    update_info(total, qparams=result, value=info(node).value or node.name)
    editor.replace(node, total)
    return layer


def _bounds(gm: GraphModule, view: IntWeighted, reals: Tensor) -> tuple[float, float]:
    """The least and the greatest value that a layer can have, whatever the integers it reads."""
    weight, bias = (attribute(gm, str(n.target)) for n in (view.weight, view.bias))
    weight = outputs_first(weight, view.output_axis, view.groups)
    source = info(view.input).qparams
    assert source is not None
    least, greatest = accumulator_bounds(weight, bias, source.zero_point, source.lo, source.hi)
    return float((least * reals).min()), float((greatest * reals).max())


def _needed(
    given: dict[str, object], result: QParams, other: QParams, *, subtracts: bool
) -> tuple[float, float]:
    """Values beyond which a layer's make no difference to the sum, whatever is added to them."""
    lo, hi = (given[name] for name in ("lo", "hi"))
    assert isinstance(lo, int)
    assert isinstance(hi, int)
    ends = [(end - result.zero_point) * result.scale for end in (lo, hi)]
    added = [-real for real in reversed(other.real_range)] if subtracts else other.real_range
    return ends[0] - added[1], ends[1] - added[0]

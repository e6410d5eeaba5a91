"""Layers that join additions as two operators, for formats that have none for both.

The layer's value gets a grid of its own, and is rounded to it. What is beyond that grid would
have been clamped in the sum, so that the grid is no wider than that; it is 8 bits, all the same.
Where data shows how far values go, the grid ends there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from qpc.batches import Batch, inputs_of
from qpc.calls import arguments, qpc_ops
from qpc.edit import Editor
from qpc.errors import ConfigError
from qpc.layers import IntWeighted, integer_layer, outputs_first
from qpc.meta import attribute, copied, info, update_info
from qpc.quant.fixedpoint import accumulator_bounds, add_multipliers
from qpc.quant.grid import Grid, QParams

_ORIGIN = "separate-sums"

Range: TypeAlias = tuple[float, float]


def joining_layers(gm: GraphModule) -> list[Node]:
    """The layers of a graph that join an addition."""
    return [node for node in gm.graph.nodes if _apart(node) is not None]


def with_separate_sums(
    gm: GraphModule, *, rounded: bool = True, batches: Iterable[Batch] | None = None
) -> tuple[GraphModule, tuple[Node, ...]]:
    """A graph of integer operators whose layers join no additions, and the layers that did.

    `gm` itself if there are none; otherwise a copy, in which a layer's value is on the narrowest
    grid of 8 bits that no result needs more of. Values must know their grids.

    rounded: False where nobody will round these values: then they have the scale of the sums, with
    which scales of weights follow from multipliers as they do without the addition.
    batches: inputs whose values the grids must have, and no more; they are read once.

    Raises ConfigError if `batches` are none, CalibrationError for one that does not fit the graph.
    """
    if not joining_layers(gm):
        return gm, ()
    made, layers = _separately(gm, {}, rounded=rounded)
    if batches is None or not rounded:
        return made, layers
    names = [node.name for node in joining_layers(gm)]
    seen = dict(zip(names, _ranges(made, layers, batches), strict=True))
    return _separately(gm, seen, rounded=True)


def _separately(
    gm: GraphModule, seen: Mapping[str, Range], *, rounded: bool
) -> tuple[GraphModule, tuple[Node, ...]]:
    """See `with_separate_sums`; seen: how far the values of layers go, by name."""
    made = copied(gm)
    editor = Editor(made, _ORIGIN)
    layers = tuple(
        _separated(editor, node, rounded, seen.get(node.name)) for node in joining_layers(made)
    )
    editor.drop_unused()
    made.recompile()
    return made, layers


def _ranges(gm: GraphModule, layers: Sequence[Node], batches: Iterable[Batch]) -> list[Range]:
    """How far the values of some layers go on data, to half a step of their grids."""
    watched = copied(gm)
    nodes = {node.name: node for node in watched.graph.nodes}
    (output,) = watched.graph.find_nodes(op="output")
    output.args = (tuple(nodes[layer.name] for layer in layers),)
    watched.recompile()
    ends = [(math.inf, -math.inf)] * len(layers)
    for number, batch in enumerate(batches):
        with torch.no_grad():
            values = watched(*inputs_of(watched, batch, number))
        ends = [
            (min(lo, int(value.min())), max(hi, int(value.max())))
            for (lo, hi), value in zip(ends, values, strict=True)
        ]
    if math.inf in ends[0]:
        raise ConfigError(
            "there are no batches to see how far values go on",
            fix="pass some that the model was calibrated with",
        )
    return [_reals(layer, lo - 0.5, hi + 0.5) for layer, (lo, hi) in zip(layers, ends, strict=True)]


def _reals(node: Node, lo: float, hi: float) -> Range:
    grid = info(node).qparams
    assert grid is not None
    return (lo - grid.zero_point) * grid.scale, (hi - grid.zero_point) * grid.scale


def _apart(node: Node) -> Callable[..., object] | None:
    """The layer's operator that does not add, for one that does."""
    apart: dict[object, Callable[..., object]] = {
        qpc_ops.conv2d_add.default: qpc_ops.conv2d.default,
        qpc_ops.conv_transpose2d_add.default: qpc_ops.conv_transpose2d.default,
        qpc_ops.linear_add.default: qpc_ops.linear.default,
    }
    return apart.get(node.target)


def _separated(editor: Editor, node: Node, rounded: bool, seen: Range | None) -> Node:
    """Put the layer and an addition in the place of `node`; return the layer."""
    view, given, target = integer_layer(node), arguments(node), _apart(node)
    assert view is not None
    assert target is not None
    result, other = info(node).qparams, info(given["other"]).qparams
    assert result is not None
    assert other is not None
    multiplier = attribute(editor.gm, str(view.multiplier.target)).to(torch.float64)
    reals = multiplier * (result.scale / 2.0 ** given["shift"])  # of a step of each accumulator
    subtracts = given["other_multiplier"] < 0
    bounds = [_bounds(editor.gm, view, reals), _needed(given, result, other, subtracts=subtracts)]
    bounds += [] if seen is None else [seen]
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


def _bounds(gm: GraphModule, view: IntWeighted, reals: Tensor) -> Range:
    """The least and the greatest value that a layer can have, whatever the integers it reads."""
    weight, bias = (attribute(gm, str(n.target)) for n in (view.weight, view.bias))
    weight = outputs_first(weight, view.output_axis, view.groups)
    source = info(view.input).qparams
    assert source is not None
    least, greatest = accumulator_bounds(weight, bias, source.zero_point, source.lo, source.hi)
    return float((least * reals).min()), float((greatest * reals).max())


def _needed(given: dict[str, object], result: QParams, other: QParams, *, subtracts: bool) -> Range:
    """Values beyond which a layer's make no difference to the sum, whatever is added to them."""
    lo, hi = (given[name] for name in ("lo", "hi"))
    assert isinstance(lo, int)
    assert isinstance(hi, int)
    ends = [(end - result.zero_point) * result.scale for end in (lo, hi)]
    added = [-real for real in reversed(other.real_range)] if subtracts else other.real_range
    return ends[0] - added[1], ends[1] - added[0]

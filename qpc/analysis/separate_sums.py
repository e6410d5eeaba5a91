"""Layers that join additions as two operators, for formats that have none for both.

The layer's value gets a grid of its own, and is rounded to it. What is beyond that grid would
have been clamped in the sum, so that the grid is no wider than that; it is 8 bits, all the same.
With data it is the grid that calibration would have chosen for the value, inside of that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from qpc.batches import Batch, inputs_of
from qpc.calls import arguments, qpc_ops
from qpc.edit import Editor
from qpc.errors import ConfigError
from qpc.layers import IntWeighted, integer_layer, outputs_first
from qpc.meta import attribute, copied, info, update_info
from qpc.quant.config import LayerConfig
from qpc.quant.fixedpoint import accumulator_bounds, add_multipliers
from qpc.quant.grid import Grid, QParams
from qpc.quant.histogram import extent

_ORIGIN = "separate-sums"

Range: TypeAlias = tuple[float, float]


def joining_layers(gm: GraphModule) -> list[Node]:
    """The layers of a graph that join an addition."""
    return [node for node in gm.graph.nodes if node.target in _APART]


def with_separate_sums(
    gm: GraphModule, *, rounded: bool = True, batches: Iterable[Batch] | None = None
) -> tuple[GraphModule, tuple[Node, ...]]:
    """A graph of integer operators whose layers join no additions, and the layers that did.

    `gm` itself if there are none; otherwise a copy, in which a layer's value is on the narrowest
    grid of 8 bits that no result needs more of. Values must know their grids.

    rounded: False where nobody will round these values: then they have the scale of the sums, with
    which scales of weights follow from multipliers as they do without the addition.
    batches: inputs on which the observer of each layer's configuration looks at its values, and
    chooses their grid; they are read once.

    Raises ConfigError if `batches` are none, CalibrationError for one that does not fit the graph,
    or that holds NaN or infinite values.
    """
    if not joining_layers(gm):
        return gm, ()
    seen = _ranges(gm, batches) if rounded and batches is not None else None
    made = copied(gm)
    editor = Editor(made, _ORIGIN)
    joins = [_Join.of(made, node) for node in joining_layers(made)]
    ranges = seen or [join.needed for join in joins]
    layers = tuple(
        _separated(editor, join, ends, rounded) for join, ends in zip(joins, ranges, strict=True)
    )
    editor.drop_unused()
    made.recompile()
    return made, layers


@dataclass(frozen=True)
class _Join:
    """A layer that joins an addition.

    reals: float64[out channels], what a step of each accumulator is worth. needed: the values
    beyond which none of the layer's occurs, or makes a difference to the sum. points: of its grid.
    symmetric: whether that is to be symmetric, as all grids may have to be.
    """

    node: Node
    view: IntWeighted
    result: QParams
    other: QParams
    reals: Tensor
    needed: Range
    points: Grid
    symmetric: bool

    @staticmethod
    def of(gm: GraphModule, node: Node) -> _Join:
        """What is known of a layer."""
        view, given = integer_layer(node), arguments(node)
        assert view is not None
        result, other = info(node).qparams, info(given["other"]).qparams
        assert result is not None
        assert other is not None
        multiplier = attribute(gm, str(view.multiplier.target)).to(torch.float64)
        reals = multiplier * (result.scale / 2.0 ** given["shift"])
        bounds = _bounds(gm, view, reals), _needed(given, result, other)
        needed = max(b[0] for b in bounds), min(b[1] for b in bounds)
        points = Grid(8, signed=result.dtype is torch.int8)
        middle = QParams.from_range(-1.0, 1.0, points, symmetric=True).zero_point
        symmetric = result.zero_point == other.zero_point == middle
        return _Join(node, view, result, other, reals, needed, points, symmetric)

    def layer(self, editor: Editor, kind: int, step: float, *ends: float) -> Node:
        """The layer's value without the addition.

        kind: 0 for integers, whose step is `step`, 1 for reals; ends: the operator's last
        arguments.
        """
        node, given = self.node, arguments(self.node)
        name = editor.free_name(f"{self.view.multiplier.target}_apart")
        own = editor.buffer(name, (self.reals / step).to(torch.float32), before=node)
        kept = list(given.values())[: list(given).index("other")]
        kept[list(given).index("multiplier")] = own
        return editor.call(_APART[node.target][kind], *kept, *ends, like=node)


def _ranges(gm: GraphModule, batches: Iterable[Batch]) -> list[Range]:
    """Which ranges the observers of layers choose for their values on data."""
    watched = copied(gm)
    editor = Editor(watched, _ORIGIN)
    joins = [_Join.of(watched, node) for node in joining_layers(watched)]
    (output,) = watched.graph.find_nodes(op="output")
    output.args = (tuple(join.layer(editor, 1, 1.0, *join.needed) for join in joins),)
    editor.drop_unused()
    watched.recompile()
    observers = [(info(j.node).config or LayerConfig()).activation.observer for j in joins]
    states = [observer.init() for observer in observers]
    number = -1
    for number, batch in enumerate(batches):
        given = inputs_of(watched, batch, number)
        for tensor in given:
            if tensor.is_floating_point():
                extent(tensor)  # NaN would be some integer after the first rounding
        with torch.no_grad():
            values = watched(*given)
        watching = zip(observers, states, values, strict=True)
        states = [observer.update(state, value) for observer, state, value in watching]
    if number < 0:
        raise ConfigError(
            "there are no batches to see how far values go on",
            fix="pass some that the model was calibrated with",
        )
    seen = zip(joins, observers, states, strict=True)
    return [o.range(state, join.points, join.symmetric) for join, o, state in seen]


_APART: Mapping[object, tuple[Callable[..., object], Callable[..., object]]] = {
    qpc_ops.conv2d_add.default: (qpc_ops.conv2d.default, qpc_ops.conv2d_float.default),
    qpc_ops.conv_transpose2d_add.default: (
        qpc_ops.conv_transpose2d.default,
        qpc_ops.conv_transpose2d_float.default,
    ),
    qpc_ops.linear_add.default: (qpc_ops.linear.default, qpc_ops.linear_float.default),
}
"""Operators of layers that do not add, for those that do: with integers and reals as results."""


def _separated(editor: Editor, join: _Join, ends: Range, rounded: bool) -> Node:
    """Put the layer and an addition in the place of both; return the layer.

    ends: the range of its grid.
    """
    node, given = join.node, arguments(join.node)
    least, greatest = ends[0], max(ends)
    grid = QParams.from_range(least, greatest, join.points, symmetric=join.symmetric)
    grid = grid if rounded else replace(grid, scale=join.result.scale)
    layer = join.layer(editor, 0, grid.scale, grid.zero_point, grid.lo, grid.hi)
    update_info(layer, qparams=grid, config=info(node).config, module_path=info(node).module_path)
    scales = grid.scale, join.other.scale
    first, second, shift = add_multipliers(scales, join.result.scale)
    total = editor.call(
        qpc_ops.add.default,
        layer,
        given["other"],
        grid.zero_point,
        join.other.zero_point,
        first,
        -second if given["other_multiplier"] < 0 else second,
        shift,
        *(given[name] for name in ("output_zero_point", "lo", "hi")),
        like=node,
    )
    update_info(total, qparams=join.result, value=info(node).value or node.name)
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


def _needed(given: Mapping[str, Any], result: QParams, other: QParams) -> Range:
    """Values beyond which a layer's make no difference to the sum, whatever is added to them."""
    ends = [(end - result.zero_point) * result.scale for end in (given["lo"], given["hi"])]
    subtracts = given["other_multiplier"] < 0
    added = [-real for real in reversed(other.real_range)] if subtracts else other.real_range
    return ends[0] - added[1], ends[1] - added[0]

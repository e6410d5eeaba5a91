"""Which inputs a graph must have the traced sizes of, besides the batch, to give the right answer.

Tracing writes sizes down as numbers: where a reshape ends, how far a slice goes, how large the
windows of an adaptive pool are. A graph with such a number refuses most other sizes by itself, as
shapes no longer fit. Some it would take, and give a wrong answer without a word.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set

from torch.fx import GraphModule, Node

from qpc.calls import qpc_ops
from qpc.meta import info
from qpc.registry import spec_of
from qpc.shapes import noted_shapes, shapes_of
from qpc.types import Concrete, TensorType, resolve

_BATCH = 3

Shapes = Mapping[Node, Concrete]


def fixed_sizes(gm: GraphModule) -> dict[Node, tuple[int, ...]]:
    """For every `qpc::quantize`, the sizes that its input must have behind the first axis.

    -1 stands for any size, which is what is left out of the result. Found by running the graph on
    shapes alone, with each axis of the inputs twice as long.
    """
    inputs = {
        node: resolve(shape, _BATCH)
        for node in gm.graph.nodes
        if node.op == "placeholder" and (shape := info(node).shape) is not None
    }
    traced = noted_shapes(gm, _BATCH)
    fixed: dict[Node, set[int]] = {}
    for axes in _variants(max(map(len, inputs.values()), default=0)):
        if len(axes) > 1 and fixed:
            break  # it is known which of them it is
        found = shapes_of(gm, {node: _longer(shape, axes) for node, shape in inputs.items()})
        if any(_keeps_a_size(node, traced, found) for node in found):
            for node in _quantizations(found):
                fixed.setdefault(node, set()).update(_differing(node, traced, found))
    sizes = {node: _required(node.all_input_nodes[0], axes) for node, axes in fixed.items()}
    return {node: wanted for node, wanted in sizes.items() if any(s != -1 for s in wanted)}


def _required(x: Node, axes: Set[int]) -> tuple[int, ...]:
    """The sizes of a value behind its first axis, -1 where `axes` has none or the batch lies."""
    return tuple(
        size if axis in axes and isinstance(size, int) else -1
        for axis, size in enumerate((info(x).shape or ())[1:], 1)
    )


def _variants(rank: int) -> Iterator[set[int]]:
    """One axis after the other, then all that images and volumes lie along."""
    yield from ({axis} for axis in range(1, rank))
    yield set(range(2, rank))


def _longer(shape: tuple[int, ...], axes: Set[int]) -> tuple[int, ...]:
    return tuple(2 * size if axis in axes else size for axis, size in enumerate(shape))


def _quantizations(found: Shapes) -> list[Node]:
    return [node for node in found if node.target is qpc_ops.quantize.default]


def _shape(node: Node, shapes: Shapes) -> tuple[int, ...]:
    found = shapes.get(node)
    return found.shape if isinstance(found, TensorType) else ()


def _differing(node: Node, traced: Shapes, found: Shapes) -> set[int]:
    """The axes along which the input of a node is of another size."""
    pairs = zip(
        _shape(node.all_input_nodes[0], traced),
        _shape(node.all_input_nodes[0], found),
        strict=False,
    )
    return {axis for axis, (a, b) in enumerate(pairs) if a != b}


def _keeps_a_size(node: Node, traced: Shapes, found: Shapes) -> bool:
    """Whether a number among the arguments may be the size of an input that now has another one."""
    spec = spec_of(node)
    if spec is None or spec.keeps_size is None or not node.all_input_nodes:
        return False
    before, now = (_shape(node.all_input_nodes[0], shapes) for shapes in (traced, found))
    return before != now and spec.keeps_size(node, before, now)

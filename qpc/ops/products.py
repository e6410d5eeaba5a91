"""Matrix products and attention: sums of products of two values.

For channels they are written in letters. Each axis of each operand has one, as in Einstein's
notation. Channels along one letter go together; a letter that is summed over ends there.
"""

from __future__ import annotations

import math
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.fx import Node

from qpc.calls import arguments, aten, set_arguments
from qpc.channels.atoms import Labels, along, compact, nothing, spread, varying_axes
from qpc.channels.flow import describe, pin_inputs
from qpc.meta import info
from qpc.ops.arithmetic import join_each
from qpc.registry import OpSpec, overloads

if TYPE_CHECKING:
    from qpc.channels.cost import Line, Products, Sizes
    from qpc.channels.flow import Flow
    from qpc.channels.removal import Removal

# --- in letters -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Product:
    """A sum of products of two values, in letters: each axis of either and of the result has one.

    added: what is added to it, broadcast.
    """

    operands: tuple[Node, Node]
    letters: tuple[str, str]
    result: str
    added: Node | None = None


def product_of(node: Node) -> Product | None:
    """The product of two values that a call is; None for anything else, or with a factor before."""
    given = arguments(node) if node.target in _PRODUCTS else {}
    if not given or given.get("alpha", 1) != 1 or given.get("beta", 1) != 1:
        return None
    if node.target is aten.einsum.default:
        return _product_as_written(list(given["tensors"]), given["equation"])
    *added, a, b = (value for value in given.values() if isinstance(value, Node))
    ranks = len(info(a).shape or ()), len(info(b).shape or ())
    if min(ranks) < _MATRIX:
        return None
    first, second, result = _letters_of_matrices(*ranks)
    return Product((a, b), (first, second), result, added[0] if added else None)


def _product_as_written(tensors: list[Node], equation: str) -> Product | None:
    ranks = [len(info(tensor).shape or ()) for tensor in tensors]
    left, arrow, result = _spelled_out(equation, ranks).partition("->")
    operands = left.split(",")
    if not arrow or len(tensors) != 2 or any(len(set(x)) < len(x) for x in operands):
        return None
    return Product((tensors[0], tensors[1]), (operands[0], operands[1]), result)


def _letters_of_matrices(first: int, second: int) -> tuple[str, str, str]:
    """Those of matrices of these ranks, and of their product; leading axes are broadcast."""
    batch = string.ascii_uppercase[: max(first, second) - 2]
    before = (batch[len(batch) - rank + 2 :] for rank in (first, second))
    return f"{next(before)}ik", f"{next(before)}kj", f"{batch}ij"


_MATRIX = 2
_PRODUCTS = frozenset({*overloads("matmul bmm mm addmm baddbmm"), aten.einsum.default})


# --- channels -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Operand:
    """Labels for each axis that has channels, and a letter for each axis."""

    labels: tuple[Labels, ...]
    letters: str

    def along(self, letter: str) -> Labels:
        """The channels along the axis of a letter, or NONE."""
        axis = self.letters.index(letter)
        changing = [labels for labels in self.labels if axis in varying_axes(labels)]
        same = [labels for labels in self.labels if not varying_axes(labels)]
        for labels in changing + same:
            return along(labels, axis)
        return nothing(self.labels[0].shape[axis : axis + 1])


def matmul(flow: Flow, node: Node) -> Sequence[Labels]:
    """A product of two values, or of a value and a parameter."""
    a, b = list(arguments(node).values())[:2]
    return _matrices(flow, node, a, b)


def added_matmul(flow: Flow, node: Node) -> Sequence[Labels]:
    """A value plus a product, which is broadcast against it."""
    added, a, b = list(arguments(node).values())[:3]
    product = flow.apart(node, _matrices(flow, node, a, b))
    return join_each(flow, node, [product, added], torch.Size(flow.shape(node)))


def _matrices(flow: Flow, node: Node, a: Node, b: Node) -> Sequence[Labels]:
    ranks = len(flow.shape(a)), len(flow.shape(b))
    if min(ranks) < _MATRIX:
        return [pin_inputs(flow, node)]
    first, second, out = _letters_of_matrices(*ranks)
    return _product(flow, node, (a, first), (b, second), out)


def einsum(flow: Flow, node: Node) -> Sequence[Labels]:
    """A sum of products as it is written."""
    given = arguments(node)
    tensors = list(given["tensors"])
    equation = _spelled_out(given["equation"], [len(flow.shape(tensor)) for tensor in tensors])
    left, arrow, out = equation.partition("->")
    operands = left.split(",")
    simple = all(len(set(letters)) == len(letters) for letters in operands)
    if not arrow or len(tensors) not in (1, 2) or not simple:
        return [pin_inputs(flow, node)]
    if len(tensors) == 2:
        first, second = zip(tensors, operands, strict=True)
        return _product(flow, node, first, second, out)
    operand = _operand(flow, node, (tensors[0], left), "", out)
    return _contract(flow, node, [operand], out, flow.shape(node))


def _spelled_out(equation: str, ranks: Sequence[int]) -> str:
    """An equation with letters in place of dots, which stand for axes counted from the last."""
    left, arrow, out = equation.replace(" ", "").partition("->")
    unused = "".join(x for x in string.ascii_letters if x not in equation)
    operands, dots = left.split(","), 0
    for place, (operand, rank) in enumerate(zip(operands, ranks, strict=True)):
        if "..." in operand:
            count = rank - len(operand) + len("...")
            dots = max(dots, count)
            operands[place] = operand.replace("...", unused[:count][::-1])
    return ",".join(operands) + arrow + out.replace("...", unused[:dots][::-1])


def attention(flow: Flow, node: Node) -> Sequence[Labels]:
    """softmax(q k^T + mask) v, as two sums of products."""
    given = arguments(node)
    batch = string.ascii_uppercase[: len(flow.shape(given["query"])) - 2]
    query, key, value = (
        _operand(flow, node, (given[name], batch + letters), meets, "").labels
        for name, letters, meets in (("query", "id", "d"), ("key", "jd", "d"), ("value", "je", "e"))
    )
    if given.get("enable_gqa"):
        times = query[0].shape[-3] // key[0].shape[-3]
        key, value = (
            tuple(compact(labels.repeat_interleave(times, -3)) for labels in other)
            for other in (key, value)
        )
    scores = torch.Size((*query[0].shape[:-1], key[0].shape[-2]))
    pairs = [_Operand(query, f"{batch}id"), _Operand(key, f"{batch}jd")]
    middle = flow.apart(node, _contract(flow, node, pairs, f"{batch}ij", scores))
    if given["attn_mask"] is not None:
        middle = join_each(flow, node, [middle, given["attn_mask"]], scores)
    pairs = [_Operand(middle, f"{batch}ij"), _Operand(value, f"{batch}je")]
    return _contract(flow, node, pairs, f"{batch}ie", flow.shape(node))


def _product(
    flow: Flow, node: Node, first: tuple[Node, str], second: tuple[Node, str], out: str
) -> Sequence[Labels]:
    operands = []
    for (value, letters), (other, theirs) in ((first, second), (second, first)):
        matrix = flow.matrix(value)
        if matrix is None or flow.matrix(other) is not None:
            operands.append(_operand(flow, node, (value, letters), theirs, out))
        else:
            read = _operand(flow, node, (other, theirs), letters, out)
            operands.append(_weight(flow, matrix, letters, read))
    return _contract(flow, node, operands, out, flow.shape(node))


def _operand(flow: Flow, node: Node, value: tuple[Node, str], theirs: str, out: str) -> _Operand:
    """A value whose channels, if they could be on several axes, are on one that is summed."""
    source, letters = value
    for labels in flow.every(source):
        if len(axes := varying_axes(labels)) > 1:
            met = [axis for axis in axes if letters[axis] in theirs]
            summed = [axis for axis in met if letters[axis] not in out]
            flow.line_of(node, labels, (summed or met or axes)[-1])
    return _Operand(flow.every(source), letters)


def _weight(flow: Flow, matrix: tuple[Node, list[int]], letters: str, value: _Operand) -> _Operand:
    """A parameter times a value is a layer: it consumes letters of both and makes its own."""
    weight, axes = matrix
    found, sizes = [], flow.shape(weight)
    shape = tuple(sizes[axis] for axis in axes)
    for place, letter in enumerate(letters):
        line = value.along(letter) if letter in value.letters else nothing(())
        if shape[place] == 1:
            continue
        if line.shape == shape[place : place + 1]:
            flow.consume(weight, axes[place], line)
        else:
            line = flow.produce(weight, axes[place])
        found.append(spread(line, place, shape))
    return _Operand(tuple(found) or (nothing(shape),), letters)


def _contract(
    flow: Flow, node: Node, operands: Sequence[_Operand], out: str, shape: tuple[int, ...]
) -> Sequence[Labels]:
    """Tie channels along equal letters; the result has those of all letters that are left."""
    why = f"{describe(node)} meets a tensor whose size is fixed"
    found: dict[str, Labels] = {}
    for operand in operands:
        for letter in _letters(operand):
            found.setdefault(letter, operand.along(letter))
    for letter, line in found.items():
        for operand in operands:
            if letter in operand.letters:
                theirs = operand.along(letter)
                if len(theirs) == len(line):  # otherwise it is broadcast, and says nothing
                    flow.atoms.unite(line, theirs, why)
    kept = [spread(line, out.index(x), shape) for x, line in found.items() if x in out]
    return kept or [nothing(shape)]


def _letters(operand: _Operand) -> dict[str, None]:
    """The letters of the axes that have channels."""
    axes = (varying_axes(labels) for labels in operand.labels)
    return {operand.letters[axis]: None for each in axes for axis in each}


def _shrink_attention(removal: Removal, node: Node) -> None:
    """The default scale is that of the full head; it stays."""
    given = arguments(node)
    full = removal.analysis.values[given["query"]][0].shape[-1]
    if given["scale"] is None and removal.counts(given["query"])[-1] != full:
        set_arguments(node, scale=1.0 / math.sqrt(full))


# --- heads and costs ------------------------------------------------------------------------------


def _leading_axes(flow: Flow, node: Node, operand: Node) -> set[int]:
    """All but the last two axes are those of matrices one after the other."""
    return set(range(len(flow.shape(operand)) - 2))


def _common_axes(flow: Flow, node: Node, operand: Node) -> set[int]:
    """The letters that all operands of an einsum and its result have in common."""
    left, _, out = arguments(node)["equation"].replace(" ", "").partition("->")
    operands = left.split(",")
    letters = operands[node.all_input_nodes.index(operand)]
    return {i for i, x in enumerate(letters) if x in out and all(x in o for o in operands)}


def _matmul_macs(sizes: Sizes, node: Node) -> Products:
    """Each element of the result sums over what is contracted."""
    return [[*sizes.value(node), sizes.value(node.all_input_nodes[0])[-1]]]


def _einsum_macs(sizes: Sizes, node: Node) -> Products:
    given = arguments(node)
    summed = _contracted(given["equation"], [sizes.value(n) for n in given["tensors"]])
    return [[*sizes.value(node), *summed]]


def _attention_macs(sizes: Sizes, node: Node) -> Products:
    given = arguments(node)
    keys = sizes.value(given["key"])[-2]
    return [[*sizes.value(given["query"]), keys], [*sizes.value(node), keys]]


def _contracted(equation: str, operands: list[list[Line]]) -> list[Line]:
    """The sizes that an einsum sums over; what `...` stands for is never summed."""
    inputs, arrow, result = equation.replace(" ", "").partition("->")
    found: dict[str, Line] = {}
    for letters, sizes in zip(inputs.split(","), operands, strict=True):
        before, _, after = letters.partition("...")
        found |= dict(zip(before, sizes, strict=False))
        found |= dict(zip(reversed(after), reversed(sizes), strict=False))
    if not arrow:  # without a result given, letters that come once are in it
        result = "".join(letter for letter in found if inputs.count(letter) == 1)
    return [size for letter, size in found.items() if letter not in result]


SPECS = (
    *(
        OpSpec(
            target,
            channels_together=matmul,
            batch_axes=_leading_axes,
            macs=_matmul_macs,
            multiplies=True,
        )
        for target in overloads("matmul bmm")
    ),
    OpSpec(aten.mm.default, channels_together=matmul, macs=_matmul_macs, multiplies=True),
    *(
        OpSpec(t, channels_together=added_matmul, multiplies=True)
        for t in overloads("addmm baddbmm")
    ),
    OpSpec(aten.bilinear.default, multiplies=True),
    OpSpec(
        aten.einsum.default,
        channels_together=einsum,
        batch_axes=_common_axes,
        macs=_einsum_macs,
        multiplies=True,
    ),
    OpSpec(
        aten.scaled_dot_product_attention.default,
        channels_together=attention,
        shrink=_shrink_attention,
        batch_axes=_leading_axes,
        macs=_attention_macs,
    ),
)

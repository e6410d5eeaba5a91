"""Write matrix products of a value and a parameter as linear layers.

Before:  x[N, T, in] -> matmul(W[in, out]) -> y
After:   x -> linear(permute(W)) -> y
Keeps:   the output, up to float rounding
Leaves:  products of two values, those with another matrix at each place along an axis, and outer
         ones
Cost:    one walk over the graph

`x @ self.weight`, `torch.addmm`, as in GPT-2, and `torch.einsum`, as in XLNet, have no integer
form, and linear layers do. What the parameter then goes through, `FoldWeights` computes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch.fx import GraphModule, Node

from qpc.analysis.origins import of_parameters
from qpc.base import Pass, PassContext
from qpc.calls import aten
from qpc.edit import Editor
from qpc.facts import CORE_FORM
from qpc.meta import info
from qpc.ops.products import product_of
from qpc.rewrite import Rule, apply_rules
from qpc.types import BatchDim, Dim

_MATRIX = 2


@dataclass(frozen=True)
class _Found:
    """A value and a parameter that are multiplied, with a letter for each axis.

    summed: the letters that are summed over; rows and columns: those that only the value, and only
    the parameter, brings into the result.
    """

    node: Node
    value: Node
    weight: Node
    letters: str
    weight_letters: str
    result: str
    added: Node | None

    @property
    def summed(self) -> str:
        return "".join(x for x in self.letters if x not in self.result)

    @property
    def rows(self) -> str:
        return "".join(x for x in self.letters if x in self.result)

    @property
    def columns(self) -> str:
        return "".join(x for x in self.weight_letters if x not in self.letters)

    @property
    def shared(self) -> str:
        """Letters of both that are not summed over; the parameter may have size 1 there."""
        return "".join(x for x in self.weight_letters if x in self.letters and x in self.result)


@dataclass(frozen=True)
class ProductWithParameter(Rule[_Found]):
    """A product of a value of the model and a matrix that parameters alone decide."""

    def match(self, gm: GraphModule, node: Node) -> _Found | None:
        product = product_of(node)
        if product is None:
            return None
        known = [of_parameters(operand) for operand in product.operands]
        if known not in ([True, False], [False, True]):
            return None
        place = known.index(True)
        weight, value = product.operands[place], product.operands[1 - place]
        letters, weight_letters = product.letters[1 - place], product.letters[place]
        rest = (letters, weight_letters, product.result, product.added)
        found = _Found(node, value, weight, *rest)
        matrix = len(info(weight).shape or ()) >= _MATRIX
        return found if matrix and found.summed and found.columns else None

    def refuse(self, gm: GraphModule, found: _Found) -> str | None:
        sizes = _sizes(found.weight, found.weight_letters)
        if any(sizes[x] != 1 for x in found.shared):
            return "it multiplies by another matrix at each place along an axis"
        if {*found.summed} - {*found.weight_letters} or {*found.columns} - {*found.result}:
            return "it sums one of its operands alone"
        values = _sizes(found.value, found.letters)
        if any(values[x] != sizes[x] for x in found.summed):
            return "it sums over an axis that grows with the batch, or is broadcast"
        if sum(isinstance(d, BatchDim) for d in values.values()) > 1:
            return "two of its axes grow with the batch"
        return None

    def replace(self, editor: Editor, found: _Found) -> str:
        node, order = found.node, found.rows + found.columns
        sizes = _sizes(found.weight, found.weight_letters) | _sizes(found.value, found.letters)
        value = _ordered(editor, found.value, found.letters, found.rows + found.summed, node)
        if len(found.summed) > 1:
            flat = [*_shape(sizes, found.rows), math.prod(_shape(sizes, found.summed))]
            value = editor.call(aten.reshape.default, value, flat, like=node)
        weight, bias = _weight(editor, found, sizes), _bias(found)
        made = editor.call(aten.linear.default, value, weight, bias, like=node)
        if len(found.columns) > 1:
            made = editor.call(aten.reshape.default, made, _shape(sizes, order), like=node)
        made = _ordered(editor, made, order, found.result, node)
        if found.added is not bias:
            made = editor.call(aten.add.Tensor, made, found.added, like=node)
        editor.replace(node, made)
        return "is a linear layer now"


@dataclass(frozen=True)
class LinearProducts(Pass, name="linear-products", requires={CORE_FORM}):
    """Make a linear layer of every matrix product of a value and a parameter that is one."""

    def apply(self, gm: GraphModule, ctx: PassContext) -> bool:
        return apply_rules((ProductWithParameter(),), self, gm, ctx)


def _weight(editor: Editor, found: _Found, sizes: dict[str, Dim]) -> Node:
    """The parameter as weight[out, in]."""
    order = found.shared + found.columns + found.summed
    weight = _ordered(editor, found.weight, found.weight_letters, order, found.node)
    if len(order) == _MATRIX:
        return weight
    shape = [math.prod(_shape(sizes, letters)) for letters in (found.columns, found.summed)]
    return editor.call(aten.reshape.default, weight, shape, like=found.node)


def _bias(found: _Found) -> Node | None:
    """What is added, if it is one parameter for each column."""
    added = found.added
    if added is None or not of_parameters(added) or found.result[-1:] != found.columns:
        return None
    (weight_shape, shape) = (info(n).shape or () for n in (found.weight, added))
    columns = weight_shape[found.weight_letters.index(found.columns)]
    return added if shape == (columns,) else None


def _ordered(editor: Editor, value: Node, letters: str, wanted: str, like: Node) -> Node:
    """A value with its axes in another order."""
    if letters == wanted:
        return value
    axes = [letters.index(x) for x in wanted]
    return editor.call(aten.permute.default, value, axes, like=like)


def _sizes(value: Node, letters: str) -> dict[str, Dim]:
    return dict(zip(letters, info(value).shape or (), strict=True))


def _shape(sizes: dict[str, Dim], letters: str) -> list[int]:
    return [d if isinstance(d, int) else -1 for d in (sizes[x] for x in letters)]

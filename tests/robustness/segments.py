"""Compare compiled code with the reference piece by piece, where rounding can become a step.

A graph of integer operators gives the same bits everywhere. Float operators do not, and where a
float value is then quantized, compared or rounded, the least difference can become a whole step.
So these values become outputs too: each must be right for the compiled code's own earlier values,
and the reference goes on with what the compiled code has, which everything after must fit exactly.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx import GraphModule, Interpreter, Node
from torch.nn import functional
from torch.utils import _pytree as pytree

from qpc.calls import aten, is_shape_arithmetic, qpc_ops
from qpc.registry import Role, role_of
from tests.robustness.outcome import DifferenceError

BOUND = 1e-4
"""How far float values may be apart, as a part of the largest one in the tensor ..."""
CANCELLED = 1e-6
"""... and in addition of the largest one that they are computed from, which sums may cancel."""

_COMPARISONS = frozenset(
    getattr(getattr(aten, name), overload)
    for name in ("lt", "le", "gt", "ge", "eq", "ne")
    for overload in ("Scalar", "Tensor")
)
_ROUNDING = frozenset(
    {
        aten.round.default,
        aten.floor.default,
        aten.ceil.default,
        aten.trunc.default,
        aten.sign.default,
    }
)


def exact_nodes(gm: GraphModule) -> frozenset[Node]:
    """Nodes that depend on integer operators, movement, and quantized inputs only."""
    found: set[Node] = set()
    for node in gm.graph.nodes:
        if node.op in ("placeholder", "get_attr") or (
            _keeps_exact(node) and found.issuperset(node.all_input_nodes)
        ):
            found.add(node)
    return frozenset(found)


def _keeps_exact(node: Node) -> bool:
    moves = role_of(node) is Role.MOVE
    integers = getattr(node.target, "namespace", "") == "qpc"
    return moves or integers or node.target is aten.cat.default or is_shape_arithmetic(node)


def with_steps_as_outputs(gm: GraphModule) -> GraphModule:
    """A copy that also returns every value at which a float difference can become a step.

    Its output is `(outputs, steps)`; for an exact graph there are no steps.
    """
    made = copy.deepcopy(gm)
    exact = exact_nodes(made)
    steps = [
        node
        for node in made.graph.nodes
        if node not in exact
        and node.target in {qpc_ops.quantize.default, *_COMPARISONS, *_ROUNDING}
    ]
    (output,) = made.graph.find_nodes(op="output")
    output.args = ((output.args[0], tuple(steps)),)
    made.recompile()
    return made


def check_pieces(
    gm: GraphModule, outputs: object, inputs: Sequence[Tensor], *, what: str = ""
) -> None:
    """Raise DifferenceError unless `outputs` are right for a graph of `with_steps_as_outputs`."""
    (output,) = gm.graph.find_nodes(op="output")
    steps = dict(zip(output.args[0][1], outputs[1], strict=True))  # type: ignore[index]  # a pair
    with torch.no_grad():
        reference = _Pieces(gm, steps, what)
        reference.run(*inputs)
    exact = exact_nodes(gm)
    for node, got in zip(
        pytree.tree_leaves(output.args[0][0]),
        pytree.tree_leaves(outputs[0]),  # type: ignore[index]  # a pair
        strict=True,
    ):
        if isinstance(node, Node):
            wanted = reference.results[node]
            all_bits = node in exact or node in steps or not wanted.is_floating_point()
            slack = 0.0 if all_bits else reference.slack(node)
            check_same(got, wanted, slack, f"{what}, output {node.name}")


class _Pieces(Interpreter):
    """The reference, with the other side's values where a difference can become a step."""

    def __init__(self, gm: GraphModule, steps: dict[Node, Tensor], what: str) -> None:
        super().__init__(gm)
        self._steps, self._what = steps, what
        self.results: dict[Node, Tensor] = {}
        self._largest: dict[Node, float] = {}  # that there is on the way to a value

    def slack(self, node: Node) -> float:
        """How far the other side's value may be away."""
        return BOUND * largest(self.results[node]) + CANCELLED * self._largest[node]

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        if target is aten.gelu.default and args[0].dtype == torch.float32:
            return _gelu(args[0], **kwargs)
        return super().call_function(target, args, kwargs)

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        if (theirs := self._steps.get(n)) is not None:
            self._check_step(n, value, theirs)
            value = theirs
        if isinstance(value, Tensor):
            self.results[n] = value
            sources = (self._largest.get(source, 0.0) for source in n.all_input_nodes)
            self._largest[n] = max(largest(value), *sources, 0.0)
        return value

    def _check_step(self, node: Node, ours: Tensor, theirs: Tensor) -> None:
        """Values may differ where the float value is within the bound of the edge of a step."""
        if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
            raise DifferenceError(
                f"{self._what}: {node.name} is {theirs.dtype}{tuple(theirs.shape)}"
            )
        differs = ours != theirs
        if ours.is_floating_point():
            differs &= ~(ours.isnan() & theirs.isnan())
        if not bool(differs.any()):
            return
        near = self._near_an_edge(node)
        if wrong := int((differs & ~near).sum()):
            i = tuple((differs & ~near).nonzero()[0].tolist())
            raise DifferenceError(
                f"{self._what}: {node.name} ({node.target}) has {wrong} wrong steps of "
                f"{ours.numel()}: {theirs[i]} instead of {ours[i]}"
            )

    def _near_an_edge(self, node: Node) -> Tensor:
        operands: list[Any] = [self.env[a] if isinstance(a, Node) else a for a in node.args]
        x, source = operands[0], node.all_input_nodes[0]
        if node.target in _COMPARISONS:
            both = [torch.as_tensor(o, dtype=x.dtype) for o in operands[:2]]
            return (both[0] - both[1]).abs() <= sum(map(self.slack, node.all_input_nodes))
        scale = operands[1] if node.target is qpc_ops.quantize.default else 1.0
        place = x.double() / scale
        if node.target in (aten.round.default, qpc_ops.quantize.default):
            place = place + 0.5
        slack = self.slack(source) / scale + 1e-5
        near: Tensor = (place - place.round()).abs() <= slack
        return near


def _gelu(x: Tensor, approximate: str = "none") -> Tensor:
    """`gelu` of float32 values, computed in float64.

    In float32 PyTorch gives infinity for a tensor of one infinity, and NaN where it holds two.
    """
    return functional.gelu(x.double(), approximate=approximate).float()


def largest(x: Tensor) -> float:
    """The largest finite magnitude."""
    finite = x[x.isfinite()].double()
    return float(finite.abs().max()) if finite.numel() else 0.0


def check_same(got: Tensor, wanted: Tensor, slack: float, what: str) -> None:
    """Raise DifferenceError for another shape, dtype or value; NaN equals NaN.

    slack: how far finite values may be apart; 0 for equal bits.
    """
    if got.shape != wanted.shape or got.dtype != wanted.dtype:
        raise DifferenceError(
            f"{what} is {got.dtype}{tuple(got.shape)}, not {wanted.dtype}{tuple(wanted.shape)}"
        )
    if not wanted.is_floating_point():
        wrong = got != wanted
    else:
        if not torch.equal(got.isnan(), wanted.isnan()):
            count = int((got.isnan() != wanted.isnan()).sum())
            raise DifferenceError(f"{what}: {count} of {got.numel()} values are NaN on one side")
        near = (got - wanted).abs() <= slack
        wrong = ~(near | (got == wanted) | wanted.isnan())
    if count := int(wrong.sum()):
        i = tuple(wrong.nonzero()[0].tolist())
        raise DifferenceError(
            f"{what}: {count} of {got.numel()} values differ, {got[i]} instead of {wanted[i]}"
        )

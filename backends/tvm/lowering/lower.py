"""From the plan of a core-form graph at one batch size to one Relax function.

Integer operators become calls of our kernels, integer data movement becomes copies or nothing at
all, and everything else goes through TVM's importer, in logical order. Inputs and outputs are in
logical order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg
from tvm import relax
from tvm.error import InternalError

from qpc.backends.common.concat_in_place import Concat
from qpc.backends.common.decompose import evaluate
from qpc.backends.common.fuse import Group
from qpc.backends.common.graph_plan import GraphPlan
from qpc.backends.common.orders import NHWC, Order, identity, is_elementwise
from qpc.backends.common.plan import KernelUse
from qpc.backends.common.traits import traits_of
from qpc.backends.compiled import output_nodes
from qpc.backends.tvm.lowering.call import Call, Fused
from qpc.backends.tvm.lowering.emitter import Emitter
from qpc.backends.tvm.lowering.integers.concat import place
from qpc.backends.tvm.lowering.layout import Slice, Value
from qpc.backends.tvm.lowering.rules import kernel_rules
from qpc.backends.tvm.lowering.translator import FloatOperators
from qpc.calls import arguments, aten
from qpc.errors import BackendError
from qpc.meta import attribute
from qpc.types import Concrete, TensorType, dtype_name

_INTEGERS = (torch.uint8, torch.int8)
_TO_IMAGES = (0, 3, 1, 2)
"""The axes of values [n, h, w, c] that make images of them."""


@dataclass(frozen=True)
class LoweredFunction:
    """One function of the program: its parameters are the model's inputs, then these weights.

    `kernels` are the calls of integer kernels, in the order in which they run.
    """

    name: str
    inputs: int
    weights: tuple[str, ...]
    outputs: tuple[TensorType, ...]
    kernels: tuple[KernelUse, ...] = ()


def lower(emit: Emitter, plan: GraphPlan) -> LoweredFunction:
    """Add the function for one batch size to the program that `emit` writes."""
    return _Lowering(emit, plan).run()


class _Lowering:
    """The walk over the nodes of a graph; what it does with each is decided before, in the plan."""

    def __init__(self, emit: Emitter, plan: GraphPlan) -> None:
        _refuse_bfloat16(plan.types)
        self._emit, self._plan, self._gm, self._types = emit, plan, plan.gm, plan.types
        self._rules = kernel_rules()
        self._traits = {target: rule.traits for target, rule in self._rules.items()}
        self._floats = FloatOperators(emit, self._types)
        self._values: dict[Node, Any] = {}
        self._copies: dict[Node, Value] = {}  # of slices, for those that cannot read them
        self._begun: dict[Node, relax.Expr] = {}  # concats that some of their members have begun

    def run(self) -> LoweredFunction:
        name, builder = f"run_{self._plan.batch}", self._emit.builder
        self._emit.start_function(self._plan)
        inputs = self._input_parameters()
        with builder.function(name):
            try:
                with builder.dataflow():
                    emitted = [builder.emit_output(r) for r in self._body()]
            except BaseException:  # Ctrl-C, too, which may come before the block has begun
                with suppress(InternalError):
                    builder._end_block()  # else TVM complains on standard error
                raise
            weights = self._emit.parameters
            builder.emit_func_output(emitted, params=[*inputs, *weights.values()])
        outputs = tuple(self._type(node) for node in output_nodes(self._gm))
        kernels = tuple(self._emit.kernel_uses)
        return LoweredFunction(name, len(inputs), tuple(weights), outputs, kernels)

    def _body(self) -> list[relax.Expr]:
        for node in self._plan.nodes:
            if node.op != "placeholder":
                self._values[node] = self._value(node)
        return [self._output(node) for node in output_nodes(self._gm)]

    def _input_parameters(self) -> list[relax.Var]:
        made = []
        for node in self._gm.graph.nodes:
            if node.op == "placeholder":
                found = self._type(node)
                var = relax.Var(node.name, relax.TensorType(found.shape, dtype_name(found.dtype)))
                self._values[node] = Value(
                    var, found.shape, found.dtype, identity(len(found.shape))
                )
                made.append(var)
        return made

    def _value(self, node: Node) -> Any:
        rule = self._rules.get(node.target)
        if node in self._plan.constants:
            return self._evaluated(node)
        if rule and not rule.traits.moves:
            return self._integer(self._plan.group(node))
        if node in self._plan.padding:  # its readers pad
            return self._given(arguments(node)["self"])
        if (concat := self._plan.in_place.concats.get(node)) and self._needs_no_copy(node, concat):
            return self._completed(node, concat)
        if rule and self._moves_as_integers(node):
            return rule.lower(self._emit, Call(node, self._moved_arguments(node), self._type(node)))
        return self._other(node)

    # --- the kinds of nodes -----------------------------------------------------------------------

    def _evaluated(self, node: Node) -> Any:
        if node.op == "get_attr":
            return attribute(self._gm, str(node.target)).detach()
        known = self._types[node]
        return known if isinstance(known, int | float | bool) else evaluate(node, self._values)

    def _integer(self, group: Group) -> Value | Slice:
        node, part = group.anchor, self._plan.in_place.parts.get(group.last)
        rule = self._rules[node.target]
        call = Call(
            node,
            self._integer_arguments(node, sliced=True),
            self._type(node),
            tuple(self._fused(stage, sliced=part is not None) for stage in group.stages),
            self._plan.orders.get(node),
            part.share if part else None,
            self._begun.get(part.cat) if part else None,
            self._plan.padding_before(node),
            self._plan.greatest.get(node, 255),
        )
        value = rule.lower(self._emit, call)
        if part:
            self._begun[part.cat] = value.expr
        return value

    def _fused(self, node: Node, *, sliced: bool) -> Fused:
        stage = traits_of(node, self._traits).stage
        assert stage is not None, "only operators that epilogues can do are fused"
        return Fused(node, self._integer_arguments(node, sliced=sliced), stage)

    def _needs_no_copy(self, cat: Node, concat: Concat) -> bool:
        """Whether members are computed in place, or else are slices of what lies in memory."""
        joined = [self._values[member] for member in arguments(cat)["tensors"]]
        return concat.in_place or any(isinstance(value, Slice) for value in joined)

    def _completed(self, cat: Node, concat: Concat) -> Value | Slice:
        """A concat after the members that had to be copied."""
        shape, home = self._type(cat).shape, concat.home
        whole = self._type(home.cat).shape
        copied = {part.share.first: self._given(node) for part, node in concat.copied.items()}
        if copied:
            begun = self._begun.get(home.cat)
            self._begun[home.cat] = place(self._emit, copied, whole, begun)
        value = Value(self._begun[home.cat], whole, self._type(home.cat).dtype, NHWC)
        return value if home.cat is cat else Slice(value, home.share.first, shape)

    def _moves_as_integers(self, node: Node) -> bool:
        """Whether a movement changes the order of its value only, and copies where it must."""
        if self._type(node).dtype in _INTEGERS:
            return True
        return self._reads_reordered(node) or self._makes_images(node)

    def _reads_reordered(self, node: Node) -> bool:
        """Whether floats to be moved lie in another order than their axes, as a layer left them.

        They are moved as integers are, which changes the order back only where it must. Padding is
        by the integer 0 there.
        """
        values = [self._values.get(n) for n in node.all_input_nodes]
        moved = [v for v in values if isinstance(v, Value) and v.dtype is torch.float32]
        whole = len(moved) == len(values) and node.target is not aten.constant_pad_nd.default
        return whole and any(v.order != identity(len(v.shape)) for v in moved)

    def _makes_images(self, node: Node) -> bool:
        """Whether floats whose last axis holds channels become images, which lie like that."""
        if node.target is not aten.permute.default:
            return False
        given = arguments(node)
        dims = tuple(d % len(given["dims"]) for d in given["dims"])
        return dims == _TO_IMAGES and isinstance(self._values.get(given["self"]), Value)

    def _other(self, node: Node) -> Any:
        found, before = self._types[node], len(self._emit.kernel_uses)
        order = self._common_order(node)
        if order is None:
            result = self._floats.convert(node, self._logical, self._tensor)
        else:

            def stored(operand: Node) -> relax.Expr:
                return self._emit.stored_as(self._argument(operand), order).expr

            result = self._floats.convert(node, stored, self._tensor, order)
        own = [use for use in self._emit.kernel_uses[before:] if use.nodes]
        self._emit.note_other(node, _reason(found, own))
        if not isinstance(found, TensorType):
            return result
        return Value(result, found.shape, found.dtype, order or identity(len(found.shape)))

    def _common_order(self, node: Node) -> Order | None:
        """The order in which an elementwise operator is computed; None if it is the logical one.

        All operands lie in it, or some do and it is that of images, which most readers want.
        """
        found = self._types[node]
        if not isinstance(found, TensorType) or not is_elementwise(node):
            return None
        values = [self._given(n) for n in node.all_input_nodes]
        orders = {v.order for v in values if isinstance(v, Value) and v.shape == found.shape}
        logical = identity(len(found.shape))
        whole = all(isinstance(v, Value) and v.shape == found.shape for v in values)
        if not whole or orders <= {logical}:
            return None
        if len(orders) == 1:
            (order,) = orders
            return order
        return NHWC if orders == {logical, NHWC} else None

    # --- arguments --------------------------------------------------------------------------------

    def _integer_arguments(self, node: Node, *, sliced: bool) -> dict[str, Any]:
        """Arguments by name, with values for nodes; None for nodes inside a fused group.

        Weights and tables are the torch tensors that kernels are built from.
        sliced: whether slices that kernels of the operator can read are left where they are.
        """
        found, traits = arguments(node), traits_of(node, self._traits)
        kept = {n: v for n, v in found.items() if n in traits.constants and isinstance(v, Node)}
        get = self._given if sliced and traits.in_place else self._argument
        moving = {name: map_arg(v, get) for name, v in found.items() if name not in kept}
        return moving | {name: self._constant_argument(node, name) for name in kept}

    def _constant_argument(self, node: Node, name: str) -> Tensor:
        value = self._values[arguments(node)[name]]
        if not isinstance(value, Tensor):
            raise BackendError(
                f"argument {name!r} of {node.target} must be a parameter or buffer, but the model"
                " computes it",
                node=node,
            )
        return value

    def _moved_arguments(self, node: Node) -> dict[str, Any]:
        """Arguments of an operator that moves integers."""
        get = self._given if node.target is aten.slice.Tensor else self._argument
        return {name: map_arg(v, get) for name, v in arguments(node).items()}

    def _argument(self, node: Node) -> Any:
        """The value of a node, with a tensor of its own."""
        found = self._given(node)
        if isinstance(found, Slice):
            if node not in self._copies:
                self._copies[node] = self._emit.alone(found)
            return self._copies[node]
        return found

    def _given(self, node: Node) -> Any:
        found = self._values.get(node)
        return self._constant(found) if isinstance(found, Tensor) else found

    def _constant(self, tensor: Tensor) -> Value:
        shape = tuple(tensor.shape)
        return Value(self._emit.weight(tensor), shape, tensor.dtype, identity(len(shape)))

    def _logical(self, node: Node) -> Any:
        found = self._argument(node)
        return self._emit.logical(found) if isinstance(found, Value) else found

    def _tensor(self, node: Node) -> Tensor | None:
        found = self._values.get(node)
        return found if isinstance(found, Tensor) else None

    def _output(self, node: Node) -> relax.Expr:
        if not isinstance(self._types[node], TensorType):
            raise BackendError("the model returns something that is not a tensor", node=node)
        expr: relax.Expr = self._logical(node)
        return expr

    def _type(self, node: Node) -> TensorType:
        found = self._types[node]
        if not isinstance(found, TensorType):
            raise BackendError("the value is not one tensor", node=node)
        return found


def _reason(found: Concrete, own: Sequence[KernelUse]) -> str:
    """Why no integer kernel computes a node, and what does."""
    why = "no integer kernel"
    if isinstance(found, TensorType) and found.dtype not in _INTEGERS:
        why = dtype_name(found.dtype)
    if not own:
        return f"{why}, compiled by TVM's own rules"
    return f"{why}, by {', '.join(dict.fromkeys(use.operation for use in own))}"


def _refuse_bfloat16(types: Mapping[Node, Concrete]) -> None:
    """Its conversions would be calls of a library that compiled models do not have."""
    for node, found in types.items():
        if isinstance(found, TensorType) and found.dtype is torch.bfloat16:
            raise BackendError(
                f"{node.name} is bfloat16, which compiled models do not compute in",
                node=node,
                fix="trace the model in float32: model.float()",
            )

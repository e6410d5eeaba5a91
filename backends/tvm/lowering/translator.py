"""Operators without an integer kernel, translated to Relax one call at a time.

The table of rules says of each operator whether TVM's importer of PyTorch operators does it or a
rule of our own; all others are decomposed by PyTorch into simpler ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.fx import Graph, Node
from torch.fx.node import map_arg
from tvm import relax
from tvm.relax.frontend.torch.exported_program_translator import ExportedProgramImporter

from qpc.backends.common.decompose import evaluate, is_constant
from qpc.backends.common.orders import Order, permuted
from qpc.backends.tvm.lowering.decompose import decompose
from qpc.backends.tvm.lowering.emitter import Emitter
from qpc.backends.tvm.lowering.floats.call import FloatCall
from qpc.backends.tvm.lowering.floats.rule import FloatRule
from qpc.backends.tvm.lowering.rules import FLOATS
from qpc.calls import arguments
from qpc.errors import BackendError, UnsupportedOpError
from qpc.types import Concrete, TensorType, dtype_name

_FIX = "express it with other operators, or use the reference backend"

Values = Callable[[Node], Any]
"""Gives the Relax tensor, the tuple or the number that a node stands for."""

Tensors = Callable[[Node], "Tensor | None"]
"""Gives the tensor that a node stands for, if it is known when the model is compiled."""


@dataclass(frozen=True)
class _Known:
    """What is known of the nodes of a graph."""

    value: Values
    tensor: Tensors
    type_of: Callable[[Node], Concrete]


class FloatOperators:
    """Translates calls; `types` tells what each node of the graph yields."""

    def __init__(self, emit: Emitter, types: Mapping[Node, Concrete]) -> None:
        self._emit, self._builder, self._types = emit, emit.builder, types
        self._importer = ExportedProgramImporter()
        self._importer.block_builder = emit.builder

    def convert(
        self, node: Node, value: Values, tensor: Tensors, order: Order | None = None
    ) -> Any:
        """Emit `node`. Raises UnsupportedOpError if it cannot be expressed.

        tensor: gives the tensor that a node stands for, if it is known already.
        order: in which its tensors lie, and its result is to, if that is not their logical order.
        """

        def type_of(n: Node) -> Concrete:
            found = self._types.get(n)
            if order is None or not isinstance(found, TensorType):
                return found
            return TensorType(permuted(found.shape, order), found.dtype)

        return self._convert(node, _Known(value, tensor, type_of), user_node=node)

    def constant(self, tensor: Tensor) -> relax.Expr:
        """A small tensor as part of the program."""
        return relax.const(tensor.numpy(), dtype_name(tensor.dtype))  # else int64 becomes int32

    def _convert(self, node: Node, known: _Known, user_node: Node) -> Any:
        made = known.type_of(node)
        if isinstance(made, TensorType) and made.dtype.is_complex:
            raise UnsupportedOpError(
                f"operator {user_node.target} needs complex numbers ({dtype_name(made.dtype)}), "
                "which compiled models do not have",
                node=user_node,
                fix=_FIX,
            )
        try:
            result = self._direct(node, known, user_node)
            if result is None:
                result = self._decomposed(node, known, user_node)
        except (BackendError, UnsupportedOpError):
            raise
        except Exception as e:  # TVM's importer raises whatever comes up
            raise BackendError(
                f"TVM cannot translate operator {node.target}: {e}", node=user_node, fix=_FIX
            ) from e
        self._check(result, known.type_of(node), node, user_node)
        return result

    def _direct(self, node: Node, known: _Known, user_node: Node) -> Any:
        rule = FLOATS.get(node.target)
        if rule is None:
            return None
        value = known.value
        if rule.kernel:
            tensors, lists = _tensors(node, known.tensor)
            call = FloatCall(self._emit, _given(node, value), tensors, lists, (user_node,))
            made = rule.kernel(call)
            if made is not None:
                return made
        emitted = None
        if rule.truths or rule.own or rule.writes:
            emitted = self._by_rule(rule, _given(node, value))
        if emitted is not None:
            return self._builder.emit(emitted)
        if not rule.importer:
            return None
        name = getattr(node.target, "__name__", str(node.target))
        converter = self._importer.convert_map[name]
        return converter(self._copy_call(node, value, known.type_of))

    def _by_rule(self, rule: FloatRule, given: Mapping[str, Any]) -> relax.Expr | None:
        emitted = rule.truths(given) if rule.truths else None
        if emitted is None and rule.own:
            emitted = rule.own(given)
        if emitted is None and rule.writes:
            emitted = rule.writes(self._builder, given)
        return emitted

    def _copy_call(self, node: Node, value: Values, type_of: Callable[[Node], Concrete]) -> Node:
        """`node` in a graph of its own, with numbers in place of nodes that stand for numbers."""
        graph = Graph()
        self._importer.env = {}

        def stand_in(source: Node) -> Any:
            known = value(source)
            if isinstance(known, int | float):
                return known
            made = graph.placeholder(source.name)
            self._importer.env[made] = known
            found = type_of(source)
            if isinstance(found, TensorType):
                made.meta["val"] = torch.empty(found.shape, dtype=found.dtype, device="meta")
            return made

        stand_ins = {n: stand_in(n) for n in node.all_input_nodes}
        given, named = map_arg((node.args, node.kwargs), stand_ins.__getitem__)
        args, kwargs = _normal_arguments(node, list(given), dict(named))
        copied = graph.create_node("call_function", node.target, tuple(args), kwargs)
        copied.meta = dict(node.meta)
        return copied

    def _decomposed(self, node: Node, outside: _Known, user_node: Node) -> Any:
        value = outside.value
        simpler = decompose(node, value, outside.type_of, kept=_is_known)
        if simpler is None:
            raise UnsupportedOpError(
                f"the TVM backend has no rule for operator {node.target}",
                node=user_node,
                fix=_FIX,
            )
        values: dict[Node, Any] = dict(
            zip(simpler.inputs, map(value, simpler.sources), strict=True)
        )
        values |= simpler.constants
        sources = dict(zip(simpler.inputs, simpler.sources, strict=True))

        def tensor(inner: Node) -> Tensor | None:
            if inner in sources:
                return outside.tensor(sources[inner])
            return found if isinstance(found := values.get(inner), Tensor) else None

        def known(inner: Node) -> Any:
            found = values[inner]
            return self.constant(found) if isinstance(found, Tensor) else found

        inside = _Known(known, tensor, simpler.type_of)
        for inner in simpler.calls:
            if is_constant(inner, values):
                values[inner] = evaluate(inner, values)
            else:
                values[inner] = self._convert(inner, inside, user_node)
        return map_arg(simpler.result, known)

    def _check(self, result: Any, expected: Concrete, node: Node, user_node: Node) -> None:
        """TVM must agree with PyTorch about the type of what it translated."""
        if not isinstance(expected, TensorType):
            return
        made = getattr(result, "ty", None)
        shape = getattr(made, "shape", None)
        sizes = None if shape is None else tuple(int(d) for d in shape)
        dtype = str(getattr(getattr(made, "dtype", None), "dtype", None))
        wanted = dtype_name(expected.dtype)
        if (sizes, dtype) != (expected.shape, wanted):
            raise BackendError(
                f"TVM translates operator {node.target} to {dtype} {sizes}, PyTorch computes"
                f" {wanted} {expected.shape}",
                node=user_node,
                fix=_FIX,
            )


def _given(node: Node, value: Values) -> dict[str, Any]:
    """The arguments of a call by their names in its schema, as Relax has them."""
    return {k: map_arg(v, value) for k, v in arguments(node).items()}


def _tensors(
    node: Node, tensor: Tensors
) -> tuple[dict[str, Tensor], dict[str, tuple[Tensor, ...]]]:
    """The arguments of a call that are known tensors, and lists of them, by name in its schema."""
    tensors: dict[str, Tensor] = {}
    lists: dict[str, tuple[Tensor, ...]] = {}
    for name, value in arguments(node).items():
        if isinstance(value, Node) and (found := tensor(value)) is not None:
            tensors[name] = found
        elif isinstance(value, list | tuple) and all(isinstance(v, Node) for v in value):
            known = [tensor(v) for v in value]
            if all(v is not None for v in known):
                lists[name] = tuple(v for v in known if v is not None)
    return tensors, lists


def _is_known(operator: object) -> bool:
    rule = FLOATS.get(operator)
    if rule is None or rule.decomposition is not None:
        return False
    return bool(rule.own or rule.truths or rule.writes or rule.importer)


def _normal_arguments(
    node: Node, args: list[Any], kwargs: dict[str, Any]
) -> tuple[list[Any], dict[str, Any]]:
    """Positional arguments given by name become positional; defaults given by name are dropped."""
    if not isinstance(node.target, OpOverload):
        return args, kwargs
    parameters = node.target._schema.arguments
    positional = [p for p in parameters if not p.kwarg_only]
    for i, parameter in enumerate(positional):
        if i >= len(args) and any(p.name in kwargs for p in positional[i:]):
            args.append(kwargs.pop(parameter.name, parameter.default_value))
    defaults = {p.name: p.default_value for p in parameters if p.has_default_value()}
    kept = {k: v for k, v in kwargs.items() if k not in defaults or v != defaults[k]}
    if "alpha" in kept:  # TVM's importer does not look at it
        raise BackendError(
            f"TVM ignores the argument 'alpha' of {node.target}", node=node, fix=_FIX
        )
    return args, kept

"""Operators without an integer kernel, translated to Relax one call at a time.

TVM's importer of PyTorch operators does most of the work. It gets some operators wrong without
saying so, so only those are used that a test compares with PyTorch (`VERIFIED`); a few have a rule
here; all others are decomposed by PyTorch into simpler ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch._ops import OpOverload
from torch.fx import Graph, Node
from torch.fx.node import map_arg
from tvm import relax
from tvm.relax.frontend.torch.exported_program_translator import ExportedProgramImporter

from qpc.backends.tvm.lowering import extremes, logic, windows
from qpc.backends.tvm.lowering.decompose import decompose, evaluate, is_constant
from qpc.backends.tvm.lowering.float_rules import OWN_RULES
from qpc.calls import arguments
from qpc.errors import BackendError, UnsupportedOpError
from qpc.types import Concrete, TensorType, dtype_name

BUILDER_RULES = extremes.BUILDER_RULES | windows.RULES

_FIX = "express it with other operators, or use the reference backend"

VERIFIED = frozenset(
    """
    _adaptive_avg_pool2d.default _softmax.default _log_softmax.default _to_copy.default
    abs.default add.Tensor add.Scalar addmm.default any.dim argmax.default argmin.default
    avg_pool1d.default avg_pool2d.default baddbmm.default bitwise_and.Tensor bitwise_not.default
    bitwise_or.Tensor bmm.default cat.default ceil.default clamp.default clamp_min.default
    clone.default constant_pad_nd.default conv1d.default conv2d.default conv3d.default
    conv_transpose1d.default conv_transpose2d.input convolution.default cos.default
    cumsum.default div.Tensor div.Scalar elu.default eq.Tensor eq.Scalar erf.default exp.default
    expand.default expm1.default flip.default floor.default full_like.default gather.default
    ge.Tensor ge.Scalar gelu.default getitem group_norm.default gt.Tensor gt.Scalar
    hardsigmoid.default hardswish.default hardtanh.default layer_norm.default le.Tensor
    le.Scalar leaky_relu.default linear.default log.default log1p.default log_softmax.int
    logical_and.default logical_not.default logical_or.default lt.Tensor lt.Scalar
    masked_fill.Scalar matmul.default max.dim max_pool1d.default max_pool2d.default
    maximum.default mean.dim minimum.default mm.default mul.Tensor mul.Scalar ne.Tensor
    ne.Scalar neg.default ones_like.default permute.default pow.Tensor_Scalar pow.Tensor_Tensor
    prelu.default reciprocal.default relu.default relu6.default repeat.default reshape.default
    roll.default round.default rsqrt.default rsub.Scalar scaled_dot_product_attention.default
    sigmoid.default sign.default silu.default sin.default slice.Tensor softmax.int
    softplus.default split_with_sizes.default sqrt.default square.default squeeze.dim
    squeeze.dims stack.default sub.Tensor sub.Scalar sum.dim_IntList tan.default tanh.default
    topk.default tril.default triu.default trunc.default unsqueeze.default
    view.default where.self zeros_like.default
    """.split()  # noqa: SIM905  (a list would fill two pages)
)
"""Operators that TVM's importer translates correctly, by name and overload."""

Values = Callable[[Node], Any]
"""Gives the Relax tensor, the tuple or the number that a node stands for."""


class FloatOperators:
    """Translates calls; `types` tells what each node of the graph yields."""

    def __init__(self, builder: relax.BlockBuilder, types: Mapping[Node, Concrete]) -> None:
        self._builder, self._types = builder, types
        self._importer = ExportedProgramImporter()
        self._importer.block_builder = builder

    def convert(self, node: Node, value: Values) -> Any:
        """Emit `node`. Raises UnsupportedOpError if it cannot be expressed."""
        return self._convert(node, value, self._types.get, user_node=node)

    def constant(self, tensor: Tensor) -> relax.Expr:
        """A small tensor as part of the program."""
        return relax.const(tensor.numpy())

    def _convert(
        self, node: Node, value: Values, type_of: Callable[[Node], Concrete], user_node: Node
    ) -> Any:
        try:
            result = self._direct(node, value, type_of)
            if result is None:
                result = self._decomposed(node, value, type_of, user_node)
        except (BackendError, UnsupportedOpError):
            raise
        except Exception as e:  # TVM's importer raises whatever comes up
            raise BackendError(
                f"TVM cannot translate operator {node.target}: {e}", node=user_node, fix=_FIX
            ) from e
        self._check(result, type_of(node), node, user_node)
        return result

    def _direct(self, node: Node, value: Values, type_of: Callable[[Node], Concrete]) -> Any:
        if (truths := logic.OF_TRUTHS.get(node.target)) is not None:
            emitted = truths(_given(node, value))
            if emitted is not None:
                return self._builder.emit(emitted)
        if (rule := OWN_RULES.get(node.target)) is not None:
            emitted = rule(_given(node, value))
            return None if emitted is None else self._builder.emit(emitted)
        if (writes := BUILDER_RULES.get(node.target)) is not None:
            emitted = writes(self._builder, _given(node, value))
            if emitted is not None:
                return self._builder.emit(emitted)
        name = getattr(node.target, "__name__", str(node.target))
        converter = self._importer.convert_map.get(name)
        if name not in VERIFIED or converter is None:
            return None
        call = self._copy_call(node, value, type_of)
        return converter(call)

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

    def _decomposed(
        self, node: Node, value: Values, type_of: Callable[[Node], Concrete], user_node: Node
    ) -> Any:
        simpler = decompose(node, value, type_of, kept=_is_known)
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

        def known(inner: Node) -> Any:
            found = values[inner]
            return self.constant(found) if isinstance(found, Tensor) else found

        for inner in simpler.calls:
            if is_constant(inner, values):
                values[inner] = evaluate(inner, values)
            else:
                values[inner] = self._convert(inner, known, simpler.type_of, user_node)
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


def _is_known(operator: OpOverload) -> bool:
    tables = (OWN_RULES, BUILDER_RULES, logic.OF_TRUTHS)
    return operator.__name__ in VERIFIED or any(operator in table for table in tables)


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

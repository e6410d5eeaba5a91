"""Sums, products, powers and comparisons of two values, of floats and other numbers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch.fx import Node

from qpc.calls import arguments, aten
from qpc.errors import UnsupportedOpError
from qpc.exporting.onnx.exporter import Exporter, Rule
from qpc.exporting.onnx.floats.functions import truncated
from qpc.exporting.onnx.sizes import ValueType
from qpc.meta import info
from qpc.types import dtype_name


def _operands(node: Node) -> list[object]:
    """The two values of a call, whatever their names."""
    return list(arguments(node).values())[:2]


def _binary(kind: str, *, swapped: bool = False) -> Rule:
    """An operator of two values in the dtype of its result."""

    def rule(to: Exporter, node: Node) -> str:
        dtype, given = to.type(node).dtype, arguments(node)
        if dtype is torch.bool:
            raise UnsupportedOpError(f"no ONNX form for {node.target} of truth values", node=node)
        if given.get("alpha", 1) != 1:
            raise UnsupportedOpError(f"no ONNX form for {node.target} with alpha", node=node)
        names = [to.operand(value, dtype) for value in _operands(node)]
        return to.emit(kind, names[::-1] if swapped else names)

    return rule


def _division(to: Exporter, node: Node) -> str:
    """`aten.div.Tensor_mode`."""
    dtype, mode = to.type(node).dtype, arguments(node)["rounding_mode"]
    made = to.emit("Div", [to.operand(value, dtype) for value in _operands(node)])
    if mode is None:
        return made
    if dtype != torch.float32:
        raise UnsupportedOpError(f"no ONNX form for {node.target} of {dtype}", node=node)
    return to.emit("Floor", [made]) if mode == "floor" else truncated(to, made)


def _remainder(to: Exporter, node: Node) -> str:
    """`aten.remainder`: `a - floor(a / b) * b`."""
    dtype = to.type(node).dtype
    a, b = (to.operand(value, dtype) for value in _operands(node))
    if dtype != torch.float32:
        return to.emit("Mod", [a, b])
    whole = to.emit("Floor", [to.emit("Div", [a, b])])
    return to.emit("Sub", [a, to.emit("Mul", [whole, b])])


def _common(to: Exporter, values: list[object]) -> torch.dtype:
    """The dtype in which tensors and numbers are compared."""
    samples = []
    for value in values:
        found = to.types[value] if isinstance(value, Node) else None
        samples.append(
            torch.empty((1,) * len(found.shape), dtype=found.dtype)
            if isinstance(found, ValueType)
            else torch.tensor(value if isinstance(value, int | float | bool) else 1)
        )
    return torch.result_type(*samples)


def _compared(kind: str, *, inverted: bool = False) -> Rule:
    """Truth values from two numbers."""

    def rule(to: Exporter, node: Node) -> str:
        values = _operands(node)
        dtype = _common(to, values)
        dtype = torch.int32 if dtype is torch.bool else dtype
        made = to.emit(kind, [to.operand(value, dtype) for value in values])
        return to.emit("Not", [made]) if inverted else made

    return rule


def _truths(kind: str) -> Rule:
    """Truth values from truth values."""

    def rule(to: Exporter, node: Node) -> str:
        if to.type(node).dtype is not torch.bool:
            raise UnsupportedOpError(f"no ONNX form for {node.target} of integers", node=node)
        names = [to.operand(n, torch.bool) for n in node.all_input_nodes]
        return to.emit(kind, names)

    return rule


def _where(to: Exporter, node: Node) -> str:
    """`aten.where`."""
    given, dtype = arguments(node), to.type(node).dtype
    sides = [to.operand(given[name], dtype) for name in ("self", "other")]
    return to.emit("Where", [to.operand(given["condition"], torch.bool), *sides])


def _masked_fill(to: Exporter, node: Node) -> str:
    """`aten.masked_fill`; of integers that stand for reals by what the point stands for."""
    given, dtype = arguments(node), to.type(node).dtype
    if to.is_integer(node) and not to.form.exact:
        grid = info(node).qparams
        assert grid is not None
        real = grid.dequantize(torch.tensor(given["value"]))
        names = [to.constant(real.numpy()), to.of(given["self"])]
    else:
        names = [to.operand(given[name], dtype) for name in ("value", "self")]
    return to.emit("Where", [to.operand(given["mask"], torch.bool), *names])


def _tested(kind: str) -> Rule:
    return lambda to, node: to.emit(kind, [to.of(node.all_input_nodes[0])])


def _finite(to: Exporter, node: Node) -> str:
    """`aten.isfinite`: `x - x` is zero."""
    name = to.of(node.all_input_nodes[0])
    zero = to.constant(np.array(0, dtype_name(to.type(node.all_input_nodes[0]).dtype)))
    return to.emit("Equal", [to.emit("Sub", [name, name]), zero])


def _triangle(*, upper: bool) -> Callable[[Exporter, Node], str]:
    """`aten.tril` and `aten.triu`."""

    def rule(to: Exporter, node: Node) -> str:
        shift = to.constant(np.int64(arguments(node)["diagonal"]))
        return to.emit("Trilu", [to.value(node, "self"), shift], upper=int(upper))

    return rule


RULES: dict[object, Rule] = {
    **dict.fromkeys((aten.add.Tensor, aten.add.Scalar), _binary("Add")),
    **dict.fromkeys((aten.sub.Tensor, aten.sub.Scalar), _binary("Sub")),
    **dict.fromkeys((aten.mul.Tensor, aten.mul.Scalar), _binary("Mul")),
    **dict.fromkeys((aten.div.Tensor, aten.div.Scalar), _binary("Div")),
    aten.rsub.Scalar: _binary("Sub", swapped=True),
    aten.div.Tensor_mode: _division,
    **dict.fromkeys(
        (aten.pow.Tensor_Scalar, aten.pow.Tensor_Tensor, aten.pow.Scalar), _binary("Pow")
    ),
    aten.maximum.default: _binary("Max"),
    aten.minimum.default: _binary("Min"),
    **dict.fromkeys((aten.remainder.Scalar, aten.remainder.Tensor), _remainder),
    **dict.fromkeys((aten.eq.Tensor, aten.eq.Scalar), _compared("Equal")),
    **dict.fromkeys((aten.ne.Tensor, aten.ne.Scalar), _compared("Equal", inverted=True)),
    **dict.fromkeys((aten.gt.Tensor, aten.gt.Scalar), _compared("Greater")),
    **dict.fromkeys((aten.ge.Tensor, aten.ge.Scalar), _compared("GreaterOrEqual")),
    **dict.fromkeys((aten.lt.Tensor, aten.lt.Scalar), _compared("Less")),
    **dict.fromkeys((aten.le.Tensor, aten.le.Scalar), _compared("LessOrEqual")),
    **dict.fromkeys(
        (aten.logical_and.default, aten.bitwise_and.Tensor, aten.__and__.Tensor), _truths("And")
    ),
    **dict.fromkeys(
        (aten.logical_or.default, aten.bitwise_or.Tensor, aten.__or__.Tensor), _truths("Or")
    ),
    **dict.fromkeys(
        (aten.logical_xor.default, aten.bitwise_xor.Tensor, aten.__xor__.Tensor), _truths("Xor")
    ),
    **dict.fromkeys((aten.logical_not.default, aten.bitwise_not.default), _truths("Not")),
    **dict.fromkeys((aten.where.self, aten.where.ScalarOther, aten.where.ScalarSelf), _where),
    **dict.fromkeys((aten.masked_fill.Scalar, aten.masked_fill.Tensor), _masked_fill),
    aten.isnan.default: _tested("IsNaN"),
    aten.isinf.default: _tested("IsInf"),
    aten.isfinite.default: _finite,
    aten.tril.default: _triangle(upper=False),
    aten.triu.default: _triangle(upper=True),
}

"""Float arithmetic stays as it is written: TVM simplifies it as if floats were real numbers.

To TVM, `x * 0` and `x - x` are 0 and `x == x` is true, also where x is NaN or infinite, and
`not x < y` is `y <= x`. That happens in two places. Its simplifier, which index arithmetic needs,
rewrites what it recognises: so `hidden` turns float operators into calls of operators that it knows
nothing of but that vectors can be given, for as long as it is at work, and `shown` turns them back.
And a node with the constant 0 is folded when it is made: `LEGALIZED` gives such constants as
tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tvm
import tvm_ffi
from tvm import relax, tirx, topi
from tvm.ir import GenericConst

from qpc.backends.tvm.lowering.floats.rule import is_float

_ARITHMETIC = (tirx.Add, tirx.Sub, tirx.Mul, tirx.Div, tirx.Min, tirx.Max)
_COMPARISONS = (tirx.EQ, tirx.NE, tirx.LT, tirx.LE, tirx.GT, tirx.GE)
_BY_NAME = {f"qpc.{kind.__name__}": kind for kind in (*_ARITHMETIC, *_COMPARISONS)}
HIDING = frozenset(_BY_NAME)
"""The names of what is called in place of operators."""
_PURE = 1
"""TVM's number for calls that do nothing but return a value."""

for _name in _BY_NAME:
    tvm.ir.register_op_attr(_name, "TCallEffectKind", _PURE)
    tvm.ir.register_op_attr(_name, "TVectorizable", True)
    tvm.ir.register_op_attr(_name, "TScriptPrinterName", _name)  # without one TVM warns


def hidden(function: tirx.PrimFunc) -> tirx.PrimFunc:
    """`function` with calls in place of operators on floats."""
    entries = [(kind, _hides(f"qpc.{kind.__name__}")) for kind in _BY_NAME.values()]
    return function.with_body(tvm_ffi.structural_map(function.body, entries, order="post"))


def shown(function: tirx.PrimFunc) -> tirx.PrimFunc:
    """The operators of a `hidden` function, back in their places."""
    body = tvm_ffi.structural_map(function.body, (tvm.ir.Call, _operator), order="post")
    return function.with_body(body)


def _hides(name: str) -> Callable[[Any], Any]:
    hiding = tvm.ir.Op.get(name)

    def replaced(operator: Any) -> Any:
        if "float" not in str(operator.a.ty):
            return operator
        return tvm.ir.Call(hiding, [operator.a, operator.b], ret_ty=operator.ty)

    return replaced


def _operator(call: tvm.ir.Call) -> Any:
    kind = _BY_NAME.get(getattr(call.op, "name", ""))
    if kind is None:
        return call
    a, b = call.args
    # LLVM is asked whether two numbers are ordered and differ, which NaN is not.
    return tirx.Not(tirx.EQ(a, b)) if kind is tirx.NE else kind(a, b)


# --- constants ------------------------------------------------------------------------------------


def _with_zero_as_tensor(operator: str, compute: Callable[..., Any]) -> Callable[..., relax.Expr]:
    usual = tvm.ir.Op.get(operator).get_attr("FLegalize")

    def legalized(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
        if any(map(_is_float_zero, call.args)):
            return builder.call_te(compute, *call.args)
        return usual(builder, call)

    return legalized


def _is_float_zero(x: relax.Expr) -> bool:
    if not isinstance(x, GenericConst) or x.ty.ndim or not is_float(x):
        return False
    return float(x.value.numpy()) == 0


LEGALIZED = {
    f"relax.{name}": _with_zero_as_tensor(f"relax.{name}", compute)
    for name, compute in (
        ("add", topi.add),
        ("multiply", topi.multiply),
        ("divide", topi.divide),
    )
}
"""How operators that TVM folds with 0 become functions, by their name in Relax."""

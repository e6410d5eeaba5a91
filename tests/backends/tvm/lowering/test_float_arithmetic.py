"""What is true of real numbers and not of floats: TVM must not simplify by it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import pad

pytest.importorskip("qpc.backends.tvm", reason="Apache TVM is not installed")
from tvm import tirx
from tvm.ir import GlobalVar, IRModule

from qpc.backends.tvm.lowering.float_arithmetic import hidden, shown
from tests.backends.tvm.strange import NUMBERS, assert_like_pytorch

pytestmark = pytest.mark.tvm

Function = Callable[[Tensor], object]


def padded(x: Tensor) -> Tensor:
    """Fuses with what reads it, which then reads one buffer."""
    return pad(x, (1, 0))


CANCELLING: list[Function] = [
    lambda x: padded(x) - padded(x),
    lambda x: (v := padded(x)) - v,
    lambda x: (v := padded(x)) / v,
    lambda x: x - x,
    lambda x: x[:, None, :] - x[:, :, None],
    lambda x: (v := padded(x).exp()) - v,
]
ZEROS: list[Function] = [
    lambda x: x * 0,
    lambda x: x * -0.0,
    lambda x: 0 * padded(x).exp(),
    lambda x: x + 0 * x.sin(),
    lambda x: 1 / (x + 0.0),
    lambda x: 0.0 - x,
    lambda x: x / 0.0,
    lambda x: torch.zeros(()) / x,
    lambda x: x.double() * 0,
    lambda x: x.half() * 0,
    lambda x: x**0,
]
COMPARED: list[Function] = [
    lambda x: x != x,
    lambda x: x == x,
    lambda x: (v := padded(x)) == v,
    lambda x: (v := padded(x)) != v,
    lambda x: (v := padded(x)) >= v,
    lambda x: ~(padded(x) <= 1),
    lambda x: (x < x.flip(1)).logical_not(),
    lambda x: torch.where(x != x, torch.zeros_like(x), x),
    lambda x: torch.where(x > 0, x, x),
    lambda x: torch.minimum(padded(x), padded(x)),
    lambda x: x.nan_to_num(),
]
SQUARED: list[Function] = [lambda x: x.sqrt() ** 2, lambda x: x**0.5, lambda x: x**-0.5]


@pytest.mark.parametrize(
    "functions", [CANCELLING, ZEROS, COMPARED, SQUARED], ids=["-", "0", "=", "sqrt"]
)
def test_floats_are_no_real_numbers(functions: list[Function]) -> None:
    assert_like_pytorch(functions, NUMBERS)


def _kernel(dtype: str, value: Callable[..., tirx.Expr]) -> tirx.PrimFunc:
    """Stores one value, computed from another."""
    x, y = (tirx.decl_buffer((1,), dtype, name=name) for name in "xy")
    made = value(tirx.BufferLoad(x, [0]))
    y = tirx.decl_buffer((1,), str(made.ty), name="y")
    return tirx.PrimFunc([x, y], tirx.BufferStore(y, made, [0]))


def _stored(function: tirx.PrimFunc) -> str:
    return str(function.body.value)


def _simplified(function: tirx.PrimFunc) -> tirx.PrimFunc:
    module = tirx.transform.StmtSimplify()(IRModule({GlobalVar("f"): function}))
    return module["f"]


@pytest.mark.parametrize("kind", [tirx.Sub, tirx.Div, tirx.EQ, tirx.LT, tirx.Min])
def test_hidden_operators_come_back_as_they_were(kind: Callable[..., tirx.Expr]) -> None:
    kernel = _kernel("float32", lambda x: kind(x, x))
    assert _stored(shown(_simplified(hidden(kernel)))) == _stored(kernel)


def test_to_differ_is_not_to_be_equal() -> None:
    differ = _kernel("float32", lambda x: tirx.NE(x, x))
    other = _kernel("float32", lambda x: tirx.Not(tirx.EQ(x, x)))
    assert _stored(shown(hidden(differ))) == _stored(other)


def test_integers_are_simplified() -> None:
    kernel = _kernel("int32", lambda x: tirx.Sub(x, x))
    assert _stored(hidden(kernel)) == _stored(kernel)
    assert _stored(_simplified(hidden(kernel))) == "0"

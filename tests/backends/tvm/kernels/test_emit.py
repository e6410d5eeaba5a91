"""What LLVM is told about sums: read in its intermediate representation, for every target."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import numpy as np
import pytest

pytest.importorskip("tvm", reason="needs Apache TVM")

import tvm
from tvm.tirx import Expr

from qpc.backends.tvm.codegen.c_functions import lower_kernels
from qpc.backends.tvm.codegen.objects import CODEGEN_OPTIONS, tvm_target
from qpc.backends.tvm.kernels.conv.conv2d import conv2d
from qpc.backends.tvm.kernels.conv.conv_plan import LayerConstants
from qpc.backends.tvm.kernels.conv.linear import LinearDesc, linear
from qpc.backends.tvm.kernels.conv.winograd_plan import WinogradPlan
from qpc.backends.tvm.kernels.elementwise import add, lookup
from qpc.backends.tvm.kernels.emit import Flat, Wrapping, powers_of_two, prim_func, wrapped_sum
from qpc.backends.tvm.kernels.epilogue import AddTensor, Requantize
from qpc.backends.tvm.kernels.geometry import Conv2dDesc, View
from qpc.backends.tvm.kernels.isa.choose import isa_for
from qpc.backends.tvm.kernels.kernel import Kernel, TensorType
from qpc.backends.tvm.kernels.layout import quantize
from qpc.backends.tvm.kernels.pooling import mean
from qpc.targets import TARGETS, Target

pytestmark = pytest.mark.tvm

WIDTHS = ["x86-64-sse4", "x86-64-avx512-vnni-256"]
"""One target for each kind of instructions, where vectors are short: quick to compile."""


def llvm_ir(func: tvm.tirx.PrimFunc, target: Target) -> str:
    chosen = tvm_target(target)
    with chosen, tvm.transform.PassContext(opt_level=3, config=CODEGEN_OPTIONS):
        lowered = lower_kernels(tvm.IRModule({"f": func}), chosen)
        made = tvm.get_global_func("target.build.llvm")(lowered, chosen)
    text = str(made.inspect_source("ll"))
    start = text.index("\ndefine")
    return text[start : text.index("\n}", start)]


def promises(text: str) -> list[str]:
    """Arithmetic on vectors of 32 bits of which LLVM believes that it never wraps around."""
    return re.findall(r"= (\w+ (?:nuw |nsw )+<\d+ x i32>)", text)


def function(lanes: int, compute: Callable[[Expr, Expr], Expr]) -> tvm.tirx.PrimFunc:
    def body(a: Flat, b: Flat, out: Flat) -> None:
        out.store(0, compute(a.load(0, lanes), b.load(0, lanes)), lanes)

    return prim_func("f", [TensorType((lanes,), "int32")] * 3, body)


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_a_sum_that_may_wrap_is_one_plain_addition(target: Target) -> None:
    lanes = target.vector_lanes
    careless = llvm_ir(function(lanes, lambda a, b: a + b), target)
    assert promises(careless) == [f"add nsw <{lanes} x i32>"]  # what this is about
    text = llvm_ir(function(lanes, lambda a, b: wrapped_sum(a, b, lanes)), target)
    assert re.findall(r"= (add .*<.*>|sext .*|trunc .*)", text)[0].startswith(
        f"add <{lanes} x i32>"
    )
    assert promises(text) == []
    assert "i64>" not in text


def test_differences_and_products_may_wrap_too() -> None:
    def compute(a: Expr, b: Expr) -> Expr:
        x, y = Wrapping(a, 8), Wrapping(b, 8)
        return ((x - y).bound() * (2**32 - 3) + y).value

    text = llvm_ir(function(8, compute), Target.parse("x86-64-avx2"))
    assert promises(text) == []
    assert set(re.findall(r"= (add|sub|mul) <8 x i32>", text)) == {"add", "mul", "sub"}


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_a_dot_may_wrap(target: Target) -> None:
    """Only products of single values are known to fit."""
    isa = isa_for(target)
    for dots in (isa, isa.words, *isa.exact_for(np.ones(4, np.int8))):
        if dots is None:
            continue
        size = dots.lanes * dots.depth

        def body(acc: Flat, x: Flat, w: Flat, out: Flat, size: int = size) -> None:
            total = dots.dot(acc.load(0, dots.lanes), x.load(0, size), w.load(0, size))  # noqa: B023
            out.store(0, total, dots.lanes)  # noqa: B023

        sums = TensorType((dots.lanes,), "int32")
        given = [TensorType((size,), dots.x_type), TensorType((size,), dots.w_type)]
        text = llvm_ir(prim_func("f", [sums, *given, sums], body), target)
        assert {promise.split()[0] for promise in promises(text)} <= {"mul"}


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_llvm_knows_the_instructions_of_every_target(target: Target) -> None:
    """Whether they do what they should is seen by the interpreter, and where the CPU has them."""
    isa = isa_for(target)
    row = View((1, 4 * isa.lanes))
    sums = AddTensor(0, 0, 1, 1, 1, 0)
    kernels = (
        lookup(isa, row, bytes(256)),
        add(isa, row, row, sums),
        quantize(isa, row.shape, (0, 1), 0.1, 3),
        mean(isa, (4, 4 * isa.lanes), (0,), Requantize(3, 0.1, 4)),
    )
    for kernel in kernels:
        assert "<" in llvm_ir(kernel.func, target)  # vectors


def _conv(target: Target, groups: int, weight: int, out: int | None = None) -> Kernel:
    desc = Conv2dDesc(n=1, h=4, w=4, c=16, o=16, kernel=(3, 3), padding=(1, 1, 1, 1), groups=groups)
    shape = (16, 16 // groups, 3, 3)
    numbers = (np.full(shape, weight, np.int8), np.zeros(16, np.int32), np.full(16, 0.01, "f4"))
    with pytest.MonkeyPatch.context() as patch:
        time = property(lambda plan: 0.0 if plan.out == out else np.inf)
        patch.setattr(WinogradPlan, "time", time)
        return conv2d(isa_for(target), desc, LayerConstants(*numbers))


def _nibbles(target: Target) -> Kernel:
    numbers = (np.full((256, 512), 7, np.int8), np.zeros(256, np.int32), np.full(256, 0.01, "f4"))
    return linear(isa_for(target), LinearDesc(1, 512, 256), LayerConstants(*numbers))


def _kernels(target: Target) -> Iterator[tuple[str, Kernel]]:
    yield "dense", _conv(target, 1, 100)
    yield "small weights", _conv(target, 1, 60)
    yield "depthwise", _conv(target, 16, 100)
    yield "four bits", _nibbles(target)
    for out in (2, 4):
        yield f"minimal filtering {out}", _conv(target, 1, 3, out)


@pytest.mark.parametrize("name", WIDTHS)
def test_no_sum_of_a_layer_promises_not_to_wrap(name: str) -> None:
    """Nor anything else of 32 bits: this requantization has no sums of them."""
    target = Target.parse(name)
    for kind, kernel in _kernels(target):
        assert (kernel.saved > 0) == kind.startswith("minimal"), kind
        assert promises(llvm_ir(kernel.func, target)) == [], kind


@pytest.mark.parametrize("most", [0, 4, 16])
@pytest.mark.parametrize("count", [0, 1, 7, 24, 41])
def test_powers_of_two_add_up_the_largest_first(count: int, most: int) -> None:
    found = powers_of_two(count, most)
    assert sum(found) == count
    assert found == sorted(found, reverse=True)
    assert all(width & (width - 1) == 0 and (not most or width <= most) for width in found)

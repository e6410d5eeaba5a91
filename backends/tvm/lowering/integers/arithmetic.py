"""Sums and products of two tensors of integers, which broadcast."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import torch

from qpc.backends.common.orders import NHWC
from qpc.backends.common.traits import MemoryOrder, StageKind, Traits
from qpc.backends.tvm.kernels import elementwise
from qpc.backends.tvm.kernels.geometry import View
from qpc.backends.tvm.kernels.kernel import Kernel
from qpc.backends.tvm.lowering.call import Call, KernelRule, emitted, reals_of
from qpc.backends.tvm.lowering.emitter import Emitter
from qpc.backends.tvm.lowering.integers.epilogue import add_stage
from qpc.backends.tvm.lowering.integers.movement import with_rank
from qpc.backends.tvm.lowering.layout import Slice, Value
from qpc.calls import qpc_ops


def _add(emit: Emitter, call: Call) -> Value | Slice:
    constants = add_stage(call.args, swapped=False)

    def build(a: View, b: View) -> Kernel:
        return elementwise.add(emit.isa, a, b, constants, emit.threads, call.share)

    return _binary(emit, call, build)


def _mul(emit: Emitter, call: Call) -> Value | Slice:
    args = call.args
    constants = elementwise.MulConstants(
        args["a_zero_point"],
        args["b_zero_point"],
        args["multiplier"],
        args["output_zero_point"],
        args["lo"],
        args["hi"],
    )

    def build(a: View, b: View) -> Kernel:
        return elementwise.mul(emit.isa, a, b, constants, emit.threads, call.share)

    return _binary(emit, call, build)


def _add_float(emit: Emitter, call: Call) -> Value | Slice:
    args = call.args
    numbers = (*_zero_points(call), args["a_multiplier"], args["b_multiplier"], args["scale"])
    constants = elementwise.RealSum(*numbers, reals_of(args))

    def build(a: View, b: View) -> Kernel:
        return elementwise.real_sum(emit.isa, a, b, constants, emit.threads)

    return _binary(emit, call, build)


def _mul_float(emit: Emitter, call: Call) -> Value | Slice:
    args = call.args
    constants = elementwise.RealProduct(*_zero_points(call), args["multiplier"], reals_of(args))

    def build(a: View, b: View) -> Kernel:
        return elementwise.real_product(emit.isa, a, b, constants, emit.threads)

    return _binary(emit, call, build)


def _zero_points(call: Call) -> tuple[int, int]:
    return call.args["a_zero_point"], call.args["b_zero_point"]


def _binary(emit: Emitter, call: Call, build: Callable[[View, View], Kernel]) -> Value | Slice:
    """Broadcast in the memory order of the larger operand, unless one or the result is a slice."""
    operands = call.tensor("a"), call.tensor("b")
    rank = max(len(value.shape) for value in operands)
    shape = tuple(torch.broadcast_shapes(*(value.shape for value in operands)))
    sliced = call.share is not None or any(isinstance(value, Slice) for value in operands)
    if sliced and rank == len(NHWC):
        a, b = (v if isinstance(v, Slice) else with_rank(emit, v, rank) for v in operands)
        a, b = emit.images(a), emit.images(b)
        return emitted(emit, call, build(a.view, b.view), [a, b], shape)
    a, b = (with_rank(emit, emit.alone(value), rank) for value in operands)
    order = max((a, b), key=lambda v: prod(v.shape)).order
    a, b = emit.stored_as(a, order), emit.stored_as(b, order)
    expr = emit.kernel(build(a.view, b.view), [a.expr, b.expr], nodes=call.nodes)
    return Value(expr, shape, call.result.dtype, order)


RULES: dict[object, KernelRule] = {
    qpc_ops.add.default: KernelRule(
        _add, Traits(order=MemoryOrder.KEPT, in_place=True, stage=StageKind.SUM)
    ),
    qpc_ops.mul.default: KernelRule(_mul, Traits(order=MemoryOrder.KEPT, in_place=True)),
    qpc_ops.add_float.default: KernelRule(
        _add_float, Traits(order=MemoryOrder.KEPT, in_place=True)
    ),
    qpc_ops.mul_float.default: KernelRule(
        _mul_float, Traits(order=MemoryOrder.KEPT, in_place=True)
    ),
}

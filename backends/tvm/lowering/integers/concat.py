"""Joins of tensors of integers, by copies; those that need none are found before."""

from __future__ import annotations

from collections.abc import Mapping

from tvm.relax import Expr

from qpc.backends.common.orders import NHWC, permuted
from qpc.backends.common.traits import Traits
from qpc.backends.tvm.kernels.kernel import TensorType as KernelType
from qpc.backends.tvm.lowering import copies
from qpc.backends.tvm.lowering.call import Call, KernelRule
from qpc.backends.tvm.lowering.emitter import Emitter, kernel_type
from qpc.backends.tvm.lowering.integers.movement import reshape, size_of
from qpc.backends.tvm.lowering.layout import Slice, Value
from qpc.calls import aten
from qpc.types import dtype_name


def concatenate(emit: Emitter, values: list[Value], axis: int) -> Value:
    """Join along a logical axis, in the memory order of the largest value."""
    order = max(values, key=size_of).order
    stored = [emit.stored_as(v, order) for v in values]
    movement = copies.concatenate([kernel_type(v) for v in stored], order.index(axis))
    shape = list(values[0].shape)
    shape[axis] = sum(v.shape[axis] for v in values)
    return Value(emit.move(movement, stored), tuple(shape), values[0].dtype, order)


def place(
    emit: Emitter, values: Mapping[int, Value | Slice], shape: tuple[int, ...], frame: Expr | None
) -> Expr:
    """Images of `shape` with values copied to their first channels; other channels are `frame`'s.

    frame: what layers have computed of these images, if anything.
    """
    images = {first: emit.images(value) for first, value in values.items()}
    dtype = dtype_name(next(iter(values.values())).dtype)
    target = KernelType(permuted(shape, NHWC), dtype)
    movement = copies.place([(first, v.view) for first, v in images.items()], target)
    return emit.move(movement, list(images.values()), into=frame)


def _cat(emit: Emitter, call: Call) -> Value:
    args, shape = call.args, call.shape
    return concatenate(emit, list(args["tensors"]), args["dim"] % len(shape))


def _stack(emit: Emitter, call: Call) -> Value:
    args, shape = call.args, call.shape
    axis = args["dim"] % len(shape)
    single = (*shape[:axis], 1, *shape[axis + 1 :])
    return concatenate(emit, [reshape(emit, v, single) for v in args["tensors"]], axis)


RULES: dict[object, KernelRule] = {
    aten.cat.default: KernelRule(_cat, Traits(moves=True)),
    aten.stack.default: KernelRule(_stack, Traits(moves=True)),
}

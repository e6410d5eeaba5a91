"""Kernels of other packages as rules, and whether they are what was asked for."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence

import tvm
from torch import Tensor
from tvm.tirx import PrimFunc

from qpc.backends.common.orders import Order, channels_last, identity, permuted
from qpc.backends.common.traits import MemoryOrder, Traits
from qpc.backends.tvm.custom import CustomKernel, KernelRequest, RegisteredKernel
from qpc.backends.tvm.kernels.kernel import Kernel
from qpc.backends.tvm.kernels.kernel import TensorType as KernelType
from qpc.backends.tvm.lowering.call import Call, KernelRule
from qpc.backends.tvm.lowering.emitter import Emitter, kernel_type
from qpc.backends.tvm.lowering.layout import Value
from qpc.errors import BackendError, QPCError
from qpc.types import TensorType, dtype_name

_LANE_BYTES = 4


def custom_rule(registered: RegisteredKernel) -> KernelRule:
    """The rule of an operator whose kernels another package builds."""

    def lower(emit: Emitter, call: Call) -> Value:
        order = _order(registered, call)
        inputs = {
            name: emit.stored_as(value, order(len(value.shape)))
            for name, value in call.args.items()
            if isinstance(value, Value)
        }
        output = TensorType(permuted(call.shape, order(len(call.shape))), call.result.dtype)
        made = _built(registered, _request(emit, call, inputs, output), call)
        arguments = [*map(kernel_type, inputs.values()), *map(_array_type, made.params)]
        written = KernelType(output.shape, dtype_name(output.dtype))
        _check(registered, made.function, [*arguments, written], call)
        name = _name(registered, made.function)
        function = made.function.with_attr("global_symbol", name)
        kernel = Kernel(name, function, tuple(arguments[: len(inputs)]), made.params, written)
        expr = emit.kernel(kernel, [value.expr for value in inputs.values()], nodes=call.nodes)
        return Value(expr, call.shape, call.result.dtype, order(len(call.shape)))

    traits = Traits(registered.order, constants=registered.constants)
    return KernelRule(lower, traits)


def _request(
    emit: Emitter, call: Call, inputs: dict[str, Value], output: TensorType
) -> KernelRequest:
    others = {name: value for name, value in call.args.items() if name not in inputs}
    for name, value in others.items():
        if isinstance(value, list | tuple) and any(isinstance(item, Value) for item in value):
            raise BackendError(
                f"argument {name!r} of {call.node.target} is a list of tensors, which kernels of"
                " other packages cannot read",
                node=call.node,
                fix="register a decomposition of it, or give it an argument for each tensor",
            )
    return KernelRequest(
        {name: TensorType(v.physical_shape, v.dtype) for name, v in inputs.items()},
        output,
        {name: value for name, value in others.items() if not isinstance(value, Tensor)},
        {name: value for name, value in others.items() if isinstance(value, Tensor)},
        emit.threads,
        emit.isa.lanes * _LANE_BYTES,
    )


def _order(registered: RegisteredKernel, call: Call) -> Callable[[int], Order]:
    """The memory order of tensors, by the number of their axes."""
    if registered.order is MemoryOrder.LOGICAL:
        return identity
    if registered.order is MemoryOrder.IMAGES:
        return channels_last
    values = [value for value in call.args.values() if isinstance(value, Value)]
    if not values or any(len(value.shape) != len(call.shape) for value in values):
        raise BackendError(
            f"the kernel of {registered.operator} keeps the order of axes in memory, but its"
            " tensors have not equally many of them",
            node=call.node,
            fix="register it with order=MemoryOrder.LOGICAL",
        )
    return lambda rank: values[0].order


def _built(registered: RegisteredKernel, request: KernelRequest, call: Call) -> CustomKernel:
    try:
        made = registered.build(request)
    except QPCError:
        raise
    except Exception as e:  # whatever comes up in the code of others
        raise BackendError(
            f"the kernel builder of operator {registered.operator} failed with"
            f" {type(e).__name__}: {e}",
            node=call.node,
        ) from e
    made = CustomKernel(made) if isinstance(made, PrimFunc) else made
    if not isinstance(made, CustomKernel) or not isinstance(made.function, PrimFunc):
        raise BackendError(
            f"the kernel builder of operator {registered.operator} returned"
            f" {type(made).__name__}, not a function of TIR",
            node=call.node,
            fix="return a tvm.tirx.PrimFunc, or a CustomKernel with one",
        )
    return made


def _check(
    registered: RegisteredKernel, function: PrimFunc, wanted: Sequence[KernelType], call: Call
) -> None:
    """Raise BackendError if a function takes other buffers than it is going to be given."""
    found = [KernelType(tuple(map(int, p.ty.shape)), str(p.ty.dtype)) for p in function.params]
    if found != list(wanted):
        raise BackendError(
            f"the kernel of operator {registered.operator} takes {_listed(found)}, but the call is"
            f" of {_listed(wanted)}",
            node=call.node,
            fix="take the inputs of the request, then the params, then its output",
        )


def _listed(types: Sequence[KernelType]) -> str:
    return ", ".join(f"{t.dtype}[{', '.join(map(str, t.shape))}]" for t in types) or "nothing"


def _array_type(array: object) -> KernelType:
    import numpy as np

    known = np.asarray(array)
    return KernelType(known.shape, known.dtype.name)


def _name(registered: RegisteredKernel, function: PrimFunc) -> str:
    """The same for equal functions, in every process."""
    digest = hashlib.sha256(tvm.ir.save_json(function).encode()).hexdigest()[:12]
    operation = re.sub(r"\W+", "_", registered.operator.name())
    return f"qpc_{operation}_{digest}"
